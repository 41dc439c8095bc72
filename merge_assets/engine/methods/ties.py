"""ties: trim, elect sign, merge (2306.01708)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from merge_assets.engine.kernel import Expression, TileFunction, deltas
from merge_assets.engine.select import TopK, top_k


def ties(expression: Expression) -> TileFunction:
    """y = b + λ Σ w_i D_i m_i / Σ w_i m_i, with D_i the task vector x_i − b trimmed to its largest elements.

    k = int(density·n) elements of each are kept; none where k is 0. The elected sign of a position is that of
    Σ w_j D_j (≥ 0 is +), and m_i = 1 where sign(w_i D_i) equals it. The division is left out without ``normalize`` and
    where the divisor is 0. ``rescale`` gives each trimmed vector the L1 norm of the whole.
    """
    base = expression.base
    assert base is not None
    weights = expression.per_model("weight")
    size = math.prod(expression.shape)
    keep = [int(density * size) for density in expression.per_model("density")]
    kept = _select(expression, base, keep, size)
    scales = _rescaling(expression, base, kept) if expression.parameters["rescale"] else [1.0] * len(weights)
    factor = float(expression.parameters["lambda"])
    normalize = bool(expression.parameters["normalize"])

    def tile(inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        trimmed = _trimmed(inputs, base, kept, start)
        factors = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
        elected = _elect(trimmed, factors)
        weighted = [d.mul_(f) for d, f in zip(trimmed, factors, strict=True)]
        mix = torch.zeros_like(inputs[base])
        divisor = torch.zeros_like(mix)
        for d, weight in zip(weighted, weights, strict=True):
            agrees = torch.where(elected, d > 0, d < 0)
            mix += torch.where(agrees, d, 0.0)
            divisor.add_(agrees, alpha=weight)
        if normalize:
            mix /= torch.where(divisor == 0, 1.0, divisor)
        return mix.mul_(factor).add_(inputs[base])

    return tile


def _elect(trimmed: Sequence[torch.Tensor], factors: Sequence[float]) -> torch.Tensor:
    """True where Σ f_i D_i ≥ 0, summed in float64: rounding must not decide where opposite vectors nearly cancel."""
    total = trimmed[0].double().mul_(factors[0])
    for d, factor in zip(trimmed[1:], factors[1:], strict=True):
        total += d.double().mul_(factor)
    return total >= 0


def _select(expression: Expression, base: int, keep: Sequence[int], size: int) -> list[TopK | bool | None]:
    """For each task vector: True keeps all, None keeps nothing, else the selection."""
    partial = [place for place, count in enumerate(keep) if 0 < count < size]

    def stream() -> Iterator[tuple[int, list[torch.Tensor]]]:
        for start, block in expression.blocks():
            all_deltas = deltas(block, base)
            yield start, [all_deltas[place] for place in partial]

    chosen = dict(zip(partial, top_k(stream, [keep[place] for place in partial]), strict=True)) if partial else {}
    return [chosen.get(place, True if count else None) for place, count in enumerate(keep)]


def _trimmed(
    inputs: Sequence[torch.Tensor], base: int, kept: Sequence[TopK | bool | None], start: int
) -> list[torch.Tensor]:
    result = []
    for delta, selection in zip(deltas(inputs, base), kept, strict=True):
        if isinstance(selection, TopK):
            result.append(torch.where(selection.mask(delta, start), delta, 0.0))
        else:
            result.append(delta if selection else torch.zeros_like(delta))
    return result


def _rescaling(expression: Expression, base: int, kept: Sequence[TopK | bool | None]) -> list[float]:
    """L1 norm of each task vector over that of its trimmed form; 1 where that is 0."""
    dense = torch.zeros(len(kept), dtype=torch.float64)
    sparse = torch.zeros(len(kept), dtype=torch.float64)
    for start, block in expression.blocks():
        dense += torch.stack([d.double().abs().sum() for d in deltas(block, base)]).cpu()
        sparse += torch.stack([d.double().abs().sum() for d in _trimmed(block, base, kept, start)]).cpu()
    return [whole / part if part else 1.0 for whole, part in zip(dense.tolist(), sparse.tolist(), strict=True)]
