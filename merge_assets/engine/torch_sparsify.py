"""Sparsifiers in torch: bit for bit what native/sparsify.h does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from merge_assets.engine.masks import random_words
from merge_assets.methods.elementary import root
from merge_assets.methods.formula import Band, Bernoulli, Cut, RankedBernoulli, Sparsifier


def magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    """The bits of float32 values without the sign, int32."""
    return values.view(torch.int32) & 0x7FFFFFFF


def sparsify(which: Sparsifier, d: torch.Tensor, by: torch.Tensor, start: int, row: int) -> torch.Tensor:
    """A tile of a task vector with what is not kept set to zero.

    Args:
        which: the sparsifier.
        d: float32, 1-D; whole rows for :class:`RankedBernoulli`.
        by: values whose magnitudes a :class:`Band` looks at.
        start: flat index of the first element.
        row: elements of a row.
    """
    if isinstance(which, Band):
        if which == Band():
            return d
        return torch.where(_within(which.inner, by, start) & ~_within(which.outer, by, start), d, 0.0)
    words = random_words(which.key, start, d.numel(), d.device)
    if isinstance(which, Bernoulli):
        return torch.where(words < math.ceil(which.probability * 2**32), d, 0.0)
    assert isinstance(which, RankedBernoulli)
    order = magnitude_bits(d).view(-1, row).argsort(dim=1, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(row, device=d.device).expand_as(order))
    if row > 1:
        step = 2.0 * which.spread / (row - 1)
        probability = (which.probability - which.spread) + step * rank.flatten().double()
    else:
        probability = torch.full(d.shape, which.probability, dtype=torch.float64, device=d.device)
    probability.clamp_(0, 1)
    kept = (d / probability).float() if which.divide else d
    return torch.where(words.double() < probability * 2.0**32, kept, 0.0)


def spread(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """Standard deviation over the task vectors, element by element, float32; summed in the order that C sums in."""
    models = torch.tensor(len(deltas), dtype=torch.float64, device=deltas[0].device)  # a number would make it a factor
    mean = deltas[0].double()
    for d in deltas[1:]:
        mean = mean + d
    mean = mean / models
    square = torch.zeros_like(mean)
    for d in deltas:
        away = d - mean
        square += away * away
    result: torch.Tensor = root(square / models).float()
    return result


def _within(cut: Cut, values: torch.Tensor, start: int) -> torch.Tensor:
    bits = magnitude_bits(values).long()
    index = torch.arange(start, start + values.numel(), device=values.device)
    return (bits > cut.bits) | ((bits == cut.bits) & (index <= cut.last_tie))
