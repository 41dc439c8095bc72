"""Counting of magnitudes in torch, for exact selection on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from merge_assets.engine.selection import LOWER_BINS, LOWER_BITS, UPPER_BINS, Bin
from merge_assets.engine.torch_sparsify import magnitude_bits

Sources = Callable[[Sequence[int]], Iterator[tuple[int, list[torch.Tensor]]]]
"""Starts a pass: (flat index of the first element, float32 tiles of the wanted sources)."""


class TorchCounter:
    """Counts magnitudes (:class:`merge_assets.engine.selection.Counter`)."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def upper(self, sources: Sequence[int], ks: Sequence[Sequence[int]]) -> list[list[Bin]]:
        found = torch.zeros(len(sources), UPPER_BINS, dtype=torch.int64)
        for _, tiles in self._sources(sources):
            for bins, values in zip(found, tiles, strict=True):
                bins += torch.bincount(magnitude_bits(values) >> LOWER_BITS, minlength=UPPER_BINS).cpu()
        return [[_find(bins, k) for k in of_source] for bins, of_source in zip(found, ks, strict=True)]

    def lower(self, sources: Sequence[int], within: Sequence[Sequence[Bin]]) -> list[list[Bin]]:
        found = [torch.zeros(len(of_source), LOWER_BINS, dtype=torch.int64) for of_source in within]
        for _, tiles in self._sources(sources):
            for all_bins, values, of_source in zip(found, tiles, within, strict=True):
                bits = magnitude_bits(values)
                for bins, upper in zip(all_bins, of_source, strict=True):
                    inside = bits[(bits >> LOWER_BITS) == upper.number] & (LOWER_BINS - 1)
                    bins += torch.bincount(inside, minlength=LOWER_BINS).cpu()
        return [
            [_find(bins, upper.rank) for bins, upper in zip(all_bins, of_source, strict=True)]
            for all_bins, of_source in zip(found, within, strict=True)
        ]

    def ties(
        self, sources: Sequence[int], bits: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        missing, last = [list(w) for w in wanted], [[-1] * len(w) for w in wanted]
        for start, tiles in self._sources(sources):
            for values, of_source, rest, found in zip(tiles, bits, missing, last, strict=True):
                for place, threshold in enumerate(of_source):
                    if rest[place] <= 0:
                        continue
                    here = (magnitude_bits(values) == threshold).nonzero().flatten()[: rest[place]]
                    if here.numel():
                        rest[place] -= here.numel()
                        found[place] = start + int(here[-1])
            if not any(any(rest) for rest in missing):
                break
        return last


def _find(bins: torch.Tensor, k: int) -> Bin:
    at_least = bins.flip(0).cumsum(0).flip(0)
    number = int((at_least >= k).nonzero().max())
    return Bin(number, k - int(at_least[number] - bins[number]), int(bins[number]))
