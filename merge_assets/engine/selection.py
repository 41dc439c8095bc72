"""Exact selection of the k largest magnitudes of streamed values, without sorting or holding them.

The magnitude of a float32 is monotonic in its bits without the sign. Two histograms, of the upper 16 of these 31 bits and
then of the lower 15 within one upper bin, give the k-th largest magnitude exactly; one more pass finds the position of the
last kept element among equal ones. How values are counted is a matter of the device (:class:`Counter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from merge_assets.methods.formula import ALL, NONE, Cut

LOWER_BITS = 15
UPPER_BINS, LOWER_BINS = 1 << 16, 1 << LOWER_BITS

VARIANCE = -1
"""In place of a task vector's number: the variance over all of them."""


class Bin(NamedTuple):
    """Where the k-th largest value is: the number of its bin, its rank within the bin (from 1), and the values in the bin."""

    number: int
    rank: int
    values: int


class Counter(Protocol):
    """Counts magnitudes of sources (task vectors, or :data:`VARIANCE`) in one pass over the inputs each."""

    def upper(self, sources: Sequence[int], ks: Sequence[Sequence[int]]) -> list[list[Bin]]:
        """For every source, the bins of the upper 16 bits that hold its ``k``-th largest values."""
        ...

    def lower(self, sources: Sequence[int], within: Sequence[Sequence[Bin]]) -> list[list[Bin]]:
        """For every source and each of its upper bins, the bin of the lower 15 bits that holds the value."""
        ...

    def ties(
        self, sources: Sequence[int], bits: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """For every source, the flat index of the ``wanted``-th element with exactly ``bits``; -1 where 0 is wanted."""
        ...


def select(counter: Counter, size: int, wanted: Sequence[tuple[int, int]]) -> list[Cut]:
    """Cuts by magnitude.

    Args:
        counter: counts the values.
        size: elements of a source.
        wanted: pairs of (source, k).

    Returns:
        One cut for each of ``wanted``, of its k largest magnitudes, equal ones by position.
    """
    found = [NONE if k <= 0 else ALL if k >= size else None for _, k in wanted]
    searched = [place for place, cut in enumerate(found) if cut is None]
    if searched:
        cuts = _cuts(counter, [wanted[place] for place in searched])
        for place, cut in zip(searched, cuts, strict=True):
            found[place] = cut
    return [cut for cut in found if cut is not None]


def kth_magnitudes(counter: Counter, wanted: Sequence[tuple[int, int]]) -> list[int]:
    """Float32 bits, without the sign, of the k-th largest magnitude for pairs of (source, k); k is 1 to the size."""
    return [kth.bits for kth in _searched(counter, wanted)]


class _Kth(NamedTuple):
    """The k-th largest magnitude: its bits, and its rank (from 1) among those with equal bits; 0 if it is their last."""

    bits: int
    rank: int


def _searched(counter: Counter, wanted: Sequence[tuple[int, int]]) -> list[_Kth]:
    sources = sorted({source for source, _ in wanted})
    upper = counter.upper(sources, [[k for other, k in wanted if other == source] for source in sources])
    lower = counter.lower(sources, upper)
    found = {
        source: iter(
            _Kth(high.number << LOWER_BITS | low.number, low.rank % low.values)
            for high, low in zip(highs, lows, strict=True)
        )
        for source, highs, lows in zip(sources, upper, lower, strict=True)
    }
    return [next(found[source]) for source, _ in wanted]


def _cuts(counter: Counter, wanted: Sequence[tuple[int, int]]) -> list[Cut]:
    searched = [(source, kth) for (source, _), kth in zip(wanted, _searched(counter, wanted), strict=True)]
    # Where all equal ones are kept there is nothing more to search.
    cut_short = [(source, kth) for source, kth in searched if kth.rank]
    last = iter(_last_ties(counter, cut_short) if cut_short else ())
    return [Cut(kth.bits, next(last) if kth.rank else ALL.last_tie) for _, kth in searched]


def _last_ties(counter: Counter, wanted: Sequence[tuple[int, _Kth]]) -> list[int]:
    """Flat indices of the last element kept for each."""
    sources = sorted({source for source, _ in wanted})
    each = [[kth for other, kth in wanted if other == source] for source in sources]
    ties = counter.ties(sources, [[k.bits for k in of] for of in each], [[k.rank for k in of] for of in each])
    found = {source: iter(last) for source, last in zip(sources, ties, strict=True)}
    return [next(found[source]) for source, _ in wanted]
