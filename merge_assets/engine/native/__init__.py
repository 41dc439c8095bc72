"""The kernels in C, as Python functions: addresses in, numbers out. They let other threads run while they work.

The library is compiled when the package is installed; what a function computes stands in its C source beside this file.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from ctypes import POINTER, Array, Structure, c_double, c_int32, c_int64, c_uint32, c_void_p
from functools import cache

from merge_assets.errors import EngineError

DTYPES = {"BF16": 0, "F16": 1, "F32": 2, "F64": 3}
"""Codes of the dtypes that the kernels compute with, by safetensors name."""


class InputArrays(Structure):
    """Where the tiles of all inputs lie; see ``inputs_t`` in common.h."""

    _fields_ = (("data", POINTER(c_void_p)), ("dtypes", POINTER(c_int32)), ("count", c_int32), ("base", c_int32))

    def __init__(self, addresses: Array[c_void_p], dtypes: Sequence[str], base: int | None) -> None:
        """Describe inputs.

        Args:
            addresses: where each begins; what is changed in it later counts.
            dtypes: safetensors names.
            base: position of the base.
        """
        codes = (c_int32 * len(dtypes))(*(DTYPES[dtype] for dtype in dtypes))
        super().__init__(addresses, codes, len(dtypes), -1 if base is None else base)


class CutStruct(Structure):
    """``cut_t`` in sparsify.h."""

    _fields_ = (("last_tie", c_int64), ("bits", c_uint32))


class SparsifierStruct(Structure):
    """``sparsifier_t`` in sparsify.h."""

    _fields_ = (
        ("kind", c_int32),
        ("divide", c_int32),
        ("inner", CutStruct),
        ("outer", CutStruct),
        ("key", c_uint32 * 2),
        ("probability", c_double),
        ("spread", c_double),
    )


class MixingStruct(Structure):
    """``mixing_t`` in mix.c."""

    _fields_ = (
        ("weights", POINTER(c_double)),
        ("factors", POINTER(c_double)),
        ("votes", POINTER(c_double)),
        ("normalize", c_int32),
        ("lambda_", c_double),
    )


_INPUTS, _EACH, _MIXING = POINTER(InputArrays), POINTER(SparsifierStruct), POINTER(MixingStruct)
_DOUBLES, _COUNTS, _WORDS = POINTER(c_double), POINTER(c_int64), POINTER(c_uint32)
_SIGNATURES = {
    "combine": (c_int64, _INPUTS, _DOUBLES, c_int64, c_void_p, c_int32),
    "gram": (c_int32, _INPUTS, c_int64, _DOUBLES),
    "count_upper": (c_int32, _INPUTS, c_int32, c_int64, _COUNTS),
    "count_lower": (c_int32, _INPUTS, c_int32, c_int64, c_int32, _WORDS, _COUNTS),
    "find_ties": (c_int32, _INPUTS, c_int32, c_int64, c_int64, c_int32, _WORDS, _COUNTS, _COUNTS),
    "find_bin": (c_int64, c_void_p, c_int64, _COUNTS),
    "norms": (c_int32, _INPUTS, _EACH, _EACH, c_int64, c_int64, c_int64, _DOUBLES),
    "low_rank": (
        c_int32,
        c_void_p,
        c_int32,
        c_void_p,
        c_void_p,
        c_int64,
        c_int64,
        c_int64,
        c_int64,
        c_double,
        c_void_p,
        c_void_p,
        c_void_p,
    ),
    "add_squares": (c_int32, c_void_p, c_int64, c_int64, c_int64, c_int32, c_void_p),
    "read_pieces": (c_int64, c_int32, c_void_p, c_void_p, c_void_p, c_int64, c_void_p),
    "dequantize": (c_int32, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64, c_void_p),
    "unpack": (c_int32, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p),
    "unpack_transposed": (
        c_int32,
        c_void_p,
        c_void_p,
        c_void_p,
        c_int64,
        c_int64,
        c_int64,
        c_int64,
        c_int64,
        c_void_p,
    ),
    "mix": (c_int64, _INPUTS, _EACH, _EACH, _MIXING, c_int64, c_int64, c_int64, c_void_p, c_int32),
}


@cache
def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        EngineError: if it was not compiled.
    """
    found = importlib.util.find_spec("merge_assets.engine.native._kernels")
    if found is None or found.origin is None:
        raise EngineError(
            "the engine's C kernels were not compiled when merge-assets was installed; install a C compiler "
            "(Debian: apt-get install gcc libc6-dev) and install merge-assets again"
        )
    loaded = ctypes.CDLL(found.origin)
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def call(name: str, *arguments: object) -> int:
    """Call a kernel.

    Raises:
        MemoryError: if it found no memory for its scratch space.
    """
    result: int = getattr(library(), name)(*arguments)
    if result < 0:
        raise MemoryError(f"no memory for the scratch space of kernel {name}")
    return result
