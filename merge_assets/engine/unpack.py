"""Weights in codes of four bits times the scales of their groups, tile by tile, in float32."""

from __future__ import annotations

import math
from ctypes import c_void_p

import numpy as np

from merge_assets.engine.adapter import read
from merge_assets.engine.buffers import Buffer
from merge_assets.engine.native import call
from merge_assets.engine.operand import Host
from merge_assets.plan import OutputTensor

TABLES = {
    "e2m1": np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32),
    "int4": np.arange(-8, 8, dtype=np.float32),
}
"""What each code stands for."""


class Unpacked:
    """The value of every code times the scale of its group; inputs are the codes, two in a byte, and the scales.

    Scales are held in memory; where the matrices of a stack are transposed, also the codes of one of them at a time.
    """

    def __init__(self, tensor: OutputTensor, host: Host, room: int) -> None:
        """Prepare.

        Args:
            tensor: what to compute.
            host: the worker.
            room: most elements that :meth:`compute` will be asked for.
        """
        self._codes, self._scale = tensor.inputs
        self._host = host
        self._group = int(tensor.parameters["group"])
        self._table = TABLES[str(tensor.parameters["codes"])]
        self._transposed = bool(tensor.parameters["transposed"])
        self._columns, self._rows = tensor.shape[-2:] if self._transposed else (tensor.shape[-1], 1)
        self._matrix = self._rows * self._columns
        self._held = -1
        if self._transposed:
            self._bytes = host.buffers.take(self._matrix // 2)
        else:
            self._scales = read(host, self._scale)
            self._bytes = host.buffers.take(room // 2 + 1)

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` to the front of ``out``, in float32."""
        assert dtype == "F32"
        address = out.address
        while self._transposed and count:
            number, inside = divmod(start, self._matrix)
            size = min(count, self._matrix - inside)
            self._hold(number)
            self._call("unpack_transposed", (self._rows, self._columns), inside, size, address)
            start, count, address = start + size, count - size, address + size * 4
        if count:
            first, end = start // 2, math.ceil((start + count) / 2)
            self._host.read(self._codes, first, self._bytes.view[: end - first])
            self._call("unpack", (self._columns,), start, count, address)
        return 0  # whoever uses them counts what is not finite

    def _hold(self, number: int) -> None:
        """Read a matrix of the stack, unless it is the one that is there."""
        if number != self._held:
            size = self._matrix // 2
            self._host.read(self._codes, number * size, self._bytes.view[:size])
            groups = self._matrix // self._group
            self._scales = read(self._host, self._scale, number * groups, (number + 1) * groups)
            self._held = number

    def _call(self, kernel: str, sizes: tuple[int, ...], start: int, count: int, address: int) -> None:
        table, scales = c_void_p(self._table.ctypes.data), c_void_p(self._scales.ctypes.data)
        call(kernel, self._bytes.address, table, scales, *sizes, self._group, start, count, address)
