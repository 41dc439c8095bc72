"""Statistics of whole tensors, taken by the kernels in C while the inputs stream by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ctypes import Array, byref, c_double, c_int64, c_uint32, pointer, sizeof

from merge_assets.engine.native import InputArrays, call
from merge_assets.engine.native.formulas import sparsifier_structs
from merge_assets.engine.selection import LOWER_BINS, UPPER_BINS, Bin
from merge_assets.methods.formula import Band, Norms, Sparsifier

Sweep = Callable[[], Iterator[tuple[int, int]]]
"""Starts a pass: brings run after run of elements to where the inputs lie, and gives (first element, elements)."""


def gram(sweep: Sweep, inputs: InputArrays, vectors: int) -> list[list[float]]:
    """Inner products of all pairs of inputs, or of differences to the base if ``inputs`` has one."""
    products = (c_double * (vectors * vectors))()
    for _, count in sweep():
        call("gram", byref(inputs), count, products)
    return [list(products[i * vectors : (i + 1) * vectors]) for i in range(vectors)]


def norms(
    sweep: Sweep, inputs: InputArrays, row: int, sparsifiers: Sequence[Sparsifier], common: Band | None
) -> list[Norms]:
    """Norms of every task vector before and after its sparsifier."""
    each = sparsifier_structs(sparsifiers)
    shared = None if common is None else pointer(sparsifier_structs([common])[0])
    found = (c_double * (3 * len(sparsifiers)))()
    for start, count in sweep():
        call("norms", byref(inputs), each, shared, row, start, count, found)
    return [Norms(*found[3 * m : 3 * m + 3]) for m in range(len(sparsifiers))]


class NativeCounter:
    """Counts magnitudes (:class:`merge_assets.engine.selection.Counter`)."""

    def __init__(self, sweep: Sweep, inputs: InputArrays) -> None:
        self._sweep = sweep
        self._inputs = byref(inputs)

    def upper(self, sources: Sequence[int], ks: Sequence[Sequence[int]]) -> list[list[Bin]]:
        found = [(c_int64 * UPPER_BINS)() for _ in sources]
        for _, count in self._sweep():
            for source, bins in zip(sources, found, strict=True):
                call("count_upper", self._inputs, source, count, bins)
        return [[_find(bins, 0, UPPER_BINS, k) for k in of_source] for bins, of_source in zip(found, ks, strict=True)]

    def lower(self, sources: Sequence[int], within: Sequence[Sequence[Bin]]) -> list[list[Bin]]:
        words = [(c_uint32 * len(of_source))(*(upper.number for upper in of_source)) for of_source in within]
        found = [(c_int64 * (LOWER_BINS * len(of_source)))() for of_source in within]
        for _, count in self._sweep():
            for source, word, bins in zip(sources, words, found, strict=True):
                call("count_lower", self._inputs, source, count, len(word), word, bins)
        return [
            [_find(bins, place * LOWER_BINS, LOWER_BINS, upper.rank) for place, upper in enumerate(of_source)]
            for bins, of_source in zip(found, within, strict=True)
        ]

    def ties(
        self, sources: Sequence[int], bits: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        words = [(c_uint32 * len(of_source))(*of_source) for of_source in bits]
        missing = [(c_int64 * len(of_source))(*of_source) for of_source in wanted]
        found = [(c_int64 * len(of_source))(*[-1] * len(of_source)) for of_source in wanted]
        for start, count in self._sweep():
            for source, word, rest, last in zip(sources, words, missing, found, strict=True):
                if any(rest):
                    call("find_ties", self._inputs, source, start, count, len(word), word, rest, last)
            if not any(any(rest) for rest in missing):
                break
        return [list(last) for last in found]


def _find(bins: Array[c_int64], first: int, count: int, k: int) -> Bin:
    """The bin of the ``k``-th largest value among ``count`` bins from ``first`` on."""
    rank = c_int64(k)
    number = call("find_bin", byref(bins, first * sizeof(c_int64)), count, byref(rank))
    return Bin(number, rank.value, bins[first + number])
