"""What a safetensors header says about one tensor, and the storage types that are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

DTYPES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Safetensors dtype code -> bytes per element."""

TORCH_NAMES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
"""Safetensors dtype code -> torch's name for it, without the ``torch.`` prefix."""

CODES: dict[str, str] = {name: code for code, name in TORCH_NAMES.items()}
"""Torch's dtype name -> safetensors dtype code."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Where one tensor lies and what it is.

    Attributes:
        name: the tensor's name in the checkpoint.
        dtype: safetensors code, a key of :data:`DTYPES`.
        shape: dimensions; empty for a scalar.
        file: the shard's name relative to the checkpoint directory.
        begin: first byte in the file (absolute, header included).
        end: one past the last byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def numel(self) -> int:
        return math.prod(self.shape)
