"""Exact selection of the k largest magnitudes of streamed float32 values, without sorting them.

The magnitude of a float32 is monotonic in its bits without the sign, so two histograms, of the upper 16 bits and then of
the lower 15 within one bin of the first, give the k-th largest magnitude exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

_LOW_BITS = 15
_LOW_MASK = (1 << _LOW_BITS) - 1
_BINS = 1 << 16

Stream = Callable[[], Iterator[tuple[int, Sequence[torch.Tensor]]]]
"""Starts a pass over (flat index of the first element, one float32 block per task vector)."""


@dataclass(frozen=True)
class TopK:
    """Which elements of one task vector are kept.

    Attributes:
        bits: magnitude bits of the smallest kept element; larger ones are all kept.
        last_tie: flat index of the last element kept among those with exactly these bits.
    """

    bits: int
    last_tie: int

    def mask(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """True where an element is kept; ``start`` is the flat index of ``values[0]``."""
        bits = _magnitude_bits(values)
        ties = bits == self.bits
        index = torch.arange(start, start + values.numel(), device=values.device)
        return (bits > self.bits) | (ties & (index <= self.last_tie))


def top_k(stream: Stream, counts: Sequence[int]) -> list[TopK]:
    """Select, for each task vector, the ``counts[i]`` elements of largest magnitude; equal ones by position.

    Args:
        stream: starts a pass over the task vectors; called three times.
        counts: number of elements to keep of each, 1 to its size.
    """
    upper = [torch.zeros(_BINS, dtype=torch.int64) for _ in counts]
    for _, blocks in stream():
        for histogram, values in zip(upper, blocks, strict=True):
            histogram += torch.bincount(_magnitude_bits(values) >> _LOW_BITS, minlength=_BINS).cpu()
    bins = [_bin_of(histogram, count) for histogram, count in zip(upper, counts, strict=True)]

    lower = [torch.zeros(1 << _LOW_BITS, dtype=torch.int64) for _ in counts]
    for _, blocks in stream():
        for histogram, values, (chosen, _) in zip(lower, blocks, bins, strict=True):
            bits = _magnitude_bits(values)
            inside = bits[(bits >> _LOW_BITS) == chosen] & _LOW_MASK
            histogram += torch.bincount(inside, minlength=1 << _LOW_BITS).cpu()
    exact = [_bin_of(histogram, rest) for histogram, (_, rest) in zip(lower, bins, strict=True)]

    wanted = [rest for _, rest in exact]
    thresholds = [(chosen << _LOW_BITS) | low for (chosen, _), (low, _) in zip(bins, exact, strict=True)]
    return [TopK(bits, last) for bits, last in zip(thresholds, _last_ties(stream, thresholds, wanted), strict=True)]


def _magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32) & 0x7FFFFFFF


def _bin_of(histogram: torch.Tensor, count: int) -> tuple[int, int]:
    """The bin that holds the ``count``-th largest value, and how many are still wanted within it."""
    at_least = histogram.flip(0).cumsum(0).flip(0)
    chosen = int((at_least >= count).nonzero().max())
    above = int(at_least[chosen] - histogram[chosen])
    return chosen, count - above


def _last_ties(stream: Stream, thresholds: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Flat index of the ``wanted[i]``-th element whose magnitude is exactly the threshold."""
    found = [0] * len(thresholds)
    last = [-1] * len(thresholds)
    for start, blocks in stream():
        for place, values in enumerate(blocks):
            missing = wanted[place] - found[place]
            if missing <= 0:
                continue
            ties = (_magnitude_bits(values) == thresholds[place]).nonzero().flatten()
            taken = ties[:missing]
            if taken.numel():
                last[place] = start + int(taken[-1])
            found[place] += int(taken.numel())
        if all(have == want for have, want in zip(found, wanted, strict=True)):
            break
    return last
