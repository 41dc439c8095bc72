"""Matrices of a stack, each transposed, tile by tile."""

from __future__ import annotations

import math
from ctypes import byref, c_double, c_void_p

import numpy as np

from merge_assets.checkpoint import DTYPES
from merge_assets.engine.buffers import Buffer
from merge_assets.engine.gather import GatheredInput
from merge_assets.engine.native import DTYPES as CODES
from merge_assets.engine.native import InputArrays, call
from merge_assets.engine.operand import Host
from merge_assets.plan import OutputTensor


class Transposed:
    """The only input with the last two dimensions exchanged. Of every row of the input the piece that a tile needs is read."""

    def __init__(self, tensor: OutputTensor, host: Host, room: int) -> None:
        """Prepare.

        Args:
            tensor: what to compute.
            host: the worker.
            room: most elements that :meth:`compute` will be asked for.
        """
        (item,) = tensor.inputs
        self._rows, self._columns = tensor.shape[-2:]
        most = min(room + 2 * self._columns, self._rows * self._columns)  # whole rows of the result
        self._source = GatheredInput(item, host, most)
        self._floats = host.buffers.take(most * DTYPES["F32"])

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` to the front of ``out``, in float32."""
        assert dtype == "F32"
        found = np.frombuffer(out.view, np.float32, count)
        done = 0
        while done < count:
            matrix, inside = divmod(start + done, self._rows * self._columns)
            size = min(count - done, self._rows * self._columns - inside)
            first, last = inside // self._columns, math.ceil((inside + size) / self._columns)
            turned = self._strip(matrix, first, last - first).T.reshape(-1)
            skipped = inside - first * self._columns
            found[done : done + size] = turned[skipped : skipped + size]
            done += size
        return 0  # whoever uses them counts what is not finite

    def _strip(self, matrix: int, first: int, width: int) -> np.ndarray:
        """Columns of one matrix of the input, (its rows, ``width``)."""
        rows = np.arange(self._columns, dtype=np.int64)
        begin = matrix * self._rows * self._columns + first
        self._source.bring(np.stack((rows * self._rows + begin, np.full_like(rows, width), rows * width)))
        size = self._columns * width
        described = InputArrays((c_void_p * 1)(self._source.buffer.address), [self._source.dtype], None)
        call("combine", byref(described), (c_double * 1)(1), size, self._floats.address, CODES["F32"])
        return np.frombuffer(self._floats.view, np.float32, size).reshape(self._columns, width)
