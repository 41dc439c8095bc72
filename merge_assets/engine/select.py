"""Exact quantiles of streamed float32 values that are not negative, without sorting or holding them.

Such values are ordered as their bits are. Two histograms, of the upper 16 bits and then of the lower 15 within the bins
where the wanted ranks lie, give the value of every rank exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

_LOW_BITS = 15
_LOW_MASK = (1 << _LOW_BITS) - 1
_BINS = 1 << 16

Stream = Callable[[], Iterator[torch.Tensor]]
"""Starts a pass over all values, as float32 tensors of one dimension."""


def quantiles(stream: Stream, shares: Sequence[float]) -> list[float]:
    """The values below which the shares of all values lie: of n values in order that of index ⌊share·(n-1)⌋.

    Args:
        stream: starts a pass over the values, at least one, none negative; NaN count as the largest. Called twice.
        shares: 0 to 1.
    """
    upper = torch.zeros(_BINS, dtype=torch.int64)
    for values in stream():
        upper += torch.bincount(_bits(values) >> _LOW_BITS, minlength=_BINS).cpu()
    ranks = [math.floor(share * (int(upper.sum()) - 1)) for share in shares]
    bins = {rank: _bin_of(upper, rank) for rank in ranks}

    lower = {chosen: torch.zeros(1 << _LOW_BITS, dtype=torch.int64) for chosen, _ in bins.values()}
    for values in stream():
        bits = _bits(values)
        for chosen, histogram in lower.items():
            inside = bits[(bits >> _LOW_BITS) == chosen] & _LOW_MASK
            histogram += torch.bincount(inside, minlength=1 << _LOW_BITS).cpu()

    def value(rank: int) -> float:
        chosen, within = bins[rank]
        low, _ = _bin_of(lower[chosen], within)
        return float(torch.tensor((chosen << _LOW_BITS) | low, dtype=torch.int32).view(torch.float32))

    return [value(rank) for rank in ranks]


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32) & 0x7FFFFFFF  # the sign of a NaN must not make a negative bin


def _bin_of(histogram: torch.Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the value of a rank (0 is the smallest value), and the value's rank within the bin."""
    up_to = histogram.cumsum(0)
    chosen = int((up_to <= rank).sum())
    return chosen, rank - int(up_to[chosen] - histogram[chosen])
