"""Weights in 8-bit floating point, or whole numbers, times the scales of their blocks, tile by tile, in float32."""

from __future__ import annotations

from ctypes import c_void_p

import numpy as np
import numpy.typing as npt

from merge_assets.engine.adapter import read
from merge_assets.engine.buffers import Buffer
from merge_assets.engine.native import call
from merge_assets.engine.operand import Host
from merge_assets.plan import OutputTensor

# Bits of the exponent, its bias, and whether the format is one of those without infinities and with a single NaN.
_FORMATS = {
    "F8_E4M3": (4, 7, "fn"),
    "F8_E5M2": (5, 15, "ieee"),
    "F8_E4M3FNUZ": (4, 8, "fnuz"),
    "F8_E5M2FNUZ": (5, 16, "fnuz"),
}


class Dequantized:
    """``weight · scale``; inputs are the weight and its scales, one for each block of rows and columns, or the weight alone.

    The product of 4 and 24 significant bits is rounded once, to float32. Scales are held in memory.
    """

    def __init__(self, tensor: OutputTensor, host: Host, room: int) -> None:
        """Read the scales.

        Args:
            tensor: what to compute.
            host: the worker.
            room: most elements that :meth:`compute` will be asked for.
        """
        self._weight, *scales = tensor.inputs
        self._host = host
        self._columns = tensor.shape[-1] if tensor.shape else 1
        self._block = int(tensor.parameters["block_rows"]), int(tensor.parameters["block_columns"])
        self._table = table(self._weight.header.dtype)
        self._scales = read(host, scales[0]) if scales else np.ones(1, np.float32)
        self._bytes = host.buffers.take(room)

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` to the front of ``out``, in float32."""
        assert dtype == "F32"
        self._host.read(self._weight, start, self._bytes.view[:count])
        call(
            "dequantize",
            self._bytes.address,
            c_void_p(self._table.ctypes.data),
            c_void_p(self._scales.ctypes.data),
            self._columns,
            *self._block,
            start,
            count,
            out.address,
        )
        return 0  # whoever uses them counts what is not finite


def table(dtype: str) -> npt.NDArray[np.float32]:
    """The value of every byte of an 8-bit floating-point format, or of whole numbers."""
    if dtype == "I8":
        return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
    exponent_bits, bias, kind = _FORMATS[dtype]
    mantissa_bits = 7 - exponent_bits
    codes = np.arange(256)
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = (codes & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    magnitude = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if kind == "ieee":
        magnitude = np.where(exponent == (1 << exponent_bits) - 1, np.where(mantissa == 0, np.inf, np.nan), magnitude)
    elif kind == "fn":
        magnitude = np.where(codes & 0x7F == 0x7F, np.nan, magnitude)
    else:
        magnitude = np.where(codes == 0x80, np.nan, magnitude)
    return np.where(codes < 128, magnitude, -magnitude).astype(np.float32)
