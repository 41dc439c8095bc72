"""Weights with a low-rank update, tile by tile: W + s·B·A (LoRA, 2106.09685), and rows of given lengths (DoRA, 2402.09353).

Every element is its own sum over the rank, in float64 and in order, so that tiles and threads change nothing. One factor is
held in memory, the other is read for the rows of a tile.
"""

from __future__ import annotations

import math
from ctypes import c_void_p

import numpy as np
import numpy.typing as npt

from merge_assets.checkpoint import DTYPES
from merge_assets.engine.buffers import Buffer
from merge_assets.engine.native import DTYPES as CODES
from merge_assets.engine.native import call
from merge_assets.engine.operand import Host, operand
from merge_assets.plan import OutputTensor, TensorInput

PANEL = 16
"""Columns of a panel; WIDE in made.c."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class LowRankUpdate:
    """``W + s · B·A``, or with the product transposed for weights that are stored as (in, out).

    Inputs are W, A and B; A has a row and B a column for every rank, further dimensions are those of convolutions. Factors of
    several experts hold those of expert ``e`` in rows ``e · rank`` on of A and in columns ``e``, ``e + experts``, … of B, from
    row ``first_row`` on.
    """

    def __init__(self, tensor: OutputTensor, host: Host, room: int) -> None:
        """Read the factor that every row needs.

        Args:
            tensor: what to compute.
            host: the worker.
            room: most elements that :meth:`compute` will be asked for.
        """
        weight, down, up = tensor.inputs[:3]
        self.rows = tensor.shape[0]
        self.columns = math.prod(tensor.shape[1:])
        self._host = host
        self._scale = float(tensor.parameters["scale"])
        self._transposed = bool(tensor.parameters["transposed"])
        self._expert, self._experts, self._first_row = (
            int(tensor.parameters.get(name, default))
            for name, default in (("expert", 0), ("experts", 1), ("first_row", 0))
        )
        self._rank = down.header.shape[0] // self._experts
        self._weight = operand(weight, host, room, whole_rows=False, hold=False)
        self._left = down if self._transposed else up
        if self._transposed:
            right = read(host, up).reshape(-1, self._rank).T
        else:
            size = self._rank * self.columns
            right = read(host, down, self._expert * size, (self._expert + 1) * size).reshape(self._rank, -1)
        self._panels = _panels(right)

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` to the front of ``out``, in float32."""
        assert dtype == "F32"
        self._compute(start, count, out, None, None)
        return 0  # whoever uses them counts what is not finite

    def _compute(self, start: int, count: int, out: Buffer, by_row: Doubles | None, by_column: Doubles | None) -> None:
        buffer, offset = self._weight.load(start, count)
        left = self._left_rows(start // self.columns, (start + count - 1) // self.columns + 1)
        call(
            "low_rank",
            buffer.address + offset,
            CODES[self._weight.dtype],
            _address(left),
            _address(self._panels),
            self._rank,
            self.columns,
            start,
            count,
            self._scale,
            _address(by_row),
            _address(by_column),
            out.address,
        )

    def _left_rows(self, first: int, end: int) -> Floats:
        """The left factor's numbers for some rows of the result, (rows, rank)."""
        if not self._transposed:
            width = self._rank * self._experts
            start, stop = (self._first_row + first) * width, (self._first_row + end) * width
            rows = read(self._host, self._left, start, stop).reshape(-1, width)
            return np.ascontiguousarray(rows[:, self._expert :: self._experts])
        columns = [read(self._host, self._left, k * self.rows + first, k * self.rows + end) for k in range(self._rank)]
        return np.ascontiguousarray(np.stack(columns, axis=1))


class Dora(LowRankUpdate):
    """``m · V / |V|`` with ``V = W + s · B·A``: every output's weights have the length that the magnitude vector gives.

    Lengths are taken over the inputs of an output: rows, or columns for weights that are stored as (in, out). An output
    whose weights are all zero stays so.
    """

    def __init__(self, tensor: OutputTensor, host: Host, room: int) -> None:
        """Take the lengths in one sweep."""
        super().__init__(tensor, host, room)
        squares = np.zeros(self.columns if self._transposed else self.rows)
        tile = host.buffers.take(room * DTYPES["F32"])
        for start in range(0, tensor.elements, room):
            count = min(room, tensor.elements - start)
            self._compute(start, count, tile, None, None)
            call("add_squares", tile.address, self.columns, start, count, self._transposed, _address(squares))
        magnitude = read(host, tensor.inputs[3]).astype(np.float64)
        lengths = np.sqrt(squares)
        self._lengthened = np.divide(magnitude, lengths, out=np.zeros_like(lengths), where=lengths > 0)

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        assert dtype == "F32"
        factors = (None, self._lengthened) if self._transposed else (self._lengthened, None)
        self._compute(start, count, out, *factors)
        return 0


def read(host: Host, item: TensorInput, start: int = 0, end: int | None = None) -> Floats:
    """Elements of a stored tensor as float32, in one dimension; bytes are powers of two, the exponent plus 127."""
    dtype = item.header.dtype
    width = DTYPES[dtype]
    end = item.header.numel if end is None else end
    raw = bytearray((end - start) * width)
    host.read(item, start * width, memoryview(raw))
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F8_E8M0", "U8"):
        return np.ldexp(np.float32(1), np.frombuffer(raw, np.uint8).astype(np.int32) - 127)
    return np.frombuffer(raw, {"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float32)


def _panels(right: Floats) -> Floats:
    """A matrix of (rank, columns) as the kernel reads it: panels of ``PANEL`` columns, the last one padded with zeros."""
    rank, columns = right.shape
    count = -(-columns // PANEL)
    padded = np.zeros((rank, count * PANEL), np.float32)
    padded[:, :columns] = right
    return np.ascontiguousarray(padded.reshape(rank, count, PANEL).transpose(1, 0, 2))


def _address(array: npt.NDArray[np.generic] | None) -> c_void_p | None:
    return None if array is None else c_void_p(array.ctypes.data)
