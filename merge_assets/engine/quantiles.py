"""Exact quantiles of streamed float32 values that are not negative, without sorting or holding them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from merge_assets.engine.selection import kth_magnitudes
from merge_assets.engine.torch_counter import TorchCounter

Stream = Callable[[], Iterator[torch.Tensor]]
"""Starts a pass over all values, as float32 tensors of one dimension."""


def quantiles(stream: Stream, size: int, shares: Sequence[float]) -> list[float]:
    """The values below which the shares of all values lie: of n values in order that of index ⌊share·(n-1)⌋.

    Args:
        stream: starts a pass over the values, none negative; NaN count as the largest. Called twice.
        size: how many values there are, at least one.
        shares: 0 to 1.
    """
    counter = TorchCounter(lambda _: ((0, [values]) for values in stream()))
    bits = kth_magnitudes(counter, [(0, size - math.floor(share * (size - 1))) for share in shares])
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).tolist()
