"""Rows of several inputs brought into another order, averaged, or zero: embeddings for another vocabulary, regrouped matrices.

Most rows of a vocabulary stay beside their neighbours, so a tile is a few runs of consecutive rows, each read at once. However
many they are, a tile takes one call per input that reads its runs into their places in a buffer, and one for every stretch of
rows that come from the same inputs, which are converted or averaged.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from ctypes import byref, c_double, c_void_p
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from merge_assets.checkpoint import DTYPES
from merge_assets.engine.buffers import Buffer
from merge_assets.engine.native import DTYPES as CODES
from merge_assets.engine.native import InputArrays, call
from merge_assets.engine.operand import Host, operand
from merge_assets.engine.planned_expression import needs_rows
from merge_assets.plan import OutputTensor, TensorInput
from merge_assets.plan.vocabulary_rows import repeats, runs


@dataclass(frozen=True)
class _Table:
    """The runs of a row map as arrays.

    Attributes:
        starts: first row of every run, and one past the last row of all; int64, (runs + 1,).
        first: every run's first row in every input, -1 where it takes none; int64, (inputs, runs).
        kinds: number of every run's set of inputs; int64, (runs,).
        sets: those sets.
    """

    starts: np.ndarray
    first: np.ndarray
    kinds: np.ndarray
    sets: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=16)
def _table(text: str, inputs: int) -> _Table:
    """A row map, taken apart once for all jobs."""
    times, further, once = repeats(text)
    found = runs(once)
    starts = np.array([run.start for run in found] + [found[-1].start + found[-1].count if found else 0], np.int64)
    first = np.full((inputs, len(found)), -1, np.int64)
    kinds = np.zeros(len(found), np.int64)
    sets: dict[tuple[int, ...], int] = {}
    for number, run in enumerate(found):
        for place, row in run.sources:
            first[place, number] = row
        kinds[number] = sets.setdefault(tuple(place for place, _ in run.sources), len(sets))
    if times != 1:
        again = np.arange(times, dtype=np.int64)
        height = starts[-1]
        starts = np.append((again[:, None] * height + starts[:-1]).reshape(-1), times * height)
        shifted = first[:, None, :] + (again * further)[:, None]
        first = np.where(first[:, None, :] < 0, -1, shifted).reshape(inputs, -1)
        kinds = np.tile(kinds, times)
    return _Table(starts, first, kinds, tuple(sets))


class GatheredInput:
    """One input, whose elements are brought to the places where the output has them.

    Attributes:
        dtype: of the elements.
        width: bytes of one.
        buffer: where they are brought.
    """

    def __init__(self, item: TensorInput, host: Host, room: int) -> None:
        """Prepare; ``room`` is the most elements that will be brought at once."""
        self.dtype = item.header.dtype
        self.width = DTYPES[self.dtype]
        self._item = item
        self._host = host
        self._nested = None
        if item.nested is not None:
            self._nested = operand(item, host, room, whole_rows=needs_rows(item.nested), hold=False)
        self.buffer = host.buffers.take(room * self.width)

    def bring(self, pieces: np.ndarray) -> None:
        """Pieces of the input to their places in the buffer; ``pieces``: offsets, lengths and places in elements, (3, n)."""
        if self._nested is None:
            self._host.read_pieces(self._item, pieces * self.width, self.buffer)
            return
        for start, count, place in pieces.T.tolist():
            found, offset = self._nested.load(start, count)
            begin, size = place * self.width, count * self.width
            self.buffer.view[begin : begin + size] = found.view[offset : offset + size]


class Gather:
    """A tensor whose rows, counted over all leading dimensions, are those of a row map.

    See :mod:`merge_assets.plan.vocabulary_rows`.
    """

    def __init__(self, tensor: OutputTensor, host: Host, room: int) -> None:
        """Prepare.

        Args:
            tensor: what to compute, with its row map.
            host: the worker.
            room: most elements that will be asked for at once.
        """
        self._table = _table(tensor.rows or "", len(tensor.inputs))
        self._width = math.prod(tensor.shape) // max(1, int(self._table.starts[-1]))
        self._begins = self._table.starts * self._width
        self._sources = [GatheredInput(item, host, room) for item in tensor.inputs]

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` to the front of ``out``.

        Returns:
            How many of them are NaN or infinite.
        """
        table, begins, end = self._table, self._begins, start + count
        lowest = int(np.searchsorted(begins, start, side="right")) - 1
        highest = int(np.searchsorted(begins, end, side="left"))
        low = np.maximum(begins[lowest:highest], start)
        high = np.minimum(begins[lowest + 1 : highest + 1], end)
        skipped = low - begins[lowest:highest]
        for source, first in zip(self._sources, table.first[:, lowest:highest], strict=True):
            used = first >= 0
            if used.any():
                pieces = np.stack((first * self._width + skipped, high - low, low - start))
                source.bring(np.ascontiguousarray(pieces[:, used]))
        kinds = table.kinds[lowest:highest]
        borders = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
        bad = 0
        for one, other in itertools.pairwise(borders):
            if one < other:
                inputs = table.sets[kinds[one]]
                bad += self._convert(inputs, int(low[one]) - start, int(high[other - 1]) - start, out, dtype)
        return bad

    def _convert(self, inputs: tuple[int, ...], first: int, last: int, out: Buffer, dtype: str) -> int:
        """The mean of some inputs' elements ``first`` to ``last`` of the tile; zeros if there are none."""
        address, count = out.address + first * DTYPES[dtype], last - first
        if not inputs:
            ctypes.memset(address, 0, count * DTYPES[dtype])
            return 0
        sources = [self._sources[place] for place in inputs]
        addresses = (c_void_p * len(sources))(*(s.buffer.address + first * s.width for s in sources))
        mean = (c_double * len(sources))(*(1 / len(sources) for _ in sources))
        described = InputArrays(addresses, [source.dtype for source in sources], None)
        return call("combine", byref(described), mean, count, address, CODES[dtype])
