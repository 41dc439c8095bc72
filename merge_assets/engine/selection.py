"""Exact selection of the k largest magnitudes of streamed values, without sorting or holding them.

The magnitude of a float32 is monotonic in its bits without the sign. Two histograms, of the upper 16 of these 31 bits and
then of the lower 15 within one upper bin, give the k-th largest magnitude exactly; one more pass finds the position of the
last kept element among equal ones. How values are counted is a matter of the device (:class:`Counter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from merge_assets.engine.formula import ALL, NONE, Cut

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
        cuts = _selected(counter, [wanted[place] for place in searched])
        for place, cut in zip(searched, cuts, strict=True):
            found[place] = cut
    return [cut for cut in found if cut is not None]


def _selected(counter: Counter, wanted: Sequence[tuple[int, int]]) -> list[Cut]:
    sources = sorted({source for source, _ in wanted})
    places = [[place for place, (source, _) in enumerate(wanted) if source == s] for s in sources]
    upper = counter.upper(sources, [[wanted[place][1] for place in of_source] for of_source in places])
    lower = counter.lower(sources, upper)
    bits = [
        [high.number << LOWER_BITS | low.number for high, low in zip(*both, strict=True)]
        for both in zip(upper, lower, strict=True)
    ]
    # Where all equal ones are kept there is nothing to search.
    missing = [[0 if low.rank == low.values else low.rank for low in of_source] for of_source in lower]
    last = counter.ties(sources, bits, missing) if any(map(any, missing)) else missing
    cuts = {
        place: Cut(bits_, last_ if missing_ else ALL.last_tie)
        for of_source in zip(places, bits, last, missing, strict=True)
        for place, bits_, last_, missing_ in zip(*of_source, strict=True)
    }
    return [cuts[place] for place in range(len(wanted))]
