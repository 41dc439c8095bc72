"""ram and ramplus_tl: what one model alone changed is kept whole, what several changed is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_assets.engine.kernel import Expression, TileFunction

if TYPE_CHECKING:
    import torch


def ram(expression: Expression) -> TileFunction:
    """y = b + Σ nz_i d_i / Σ nz_i, with nz_i = |d_i| > ``epsilon``; b where no model changed it."""
    return _merged(expression, [1.0] * (expression.count - 1))


def ramplus_tl(expression: Expression) -> TileFunction:
    """Like :func:`ram`, with d_i times 1 + r·clamp(ρ_i, 0, α) where model i alone changed the base.

    ρ_i is the number of elements that it changed together with others over the number it changed alone.
    """
    r, alpha = float(expression.parameters["r"]), float(expression.parameters["alpha"])
    unique, overlapping = [0] * (expression.count - 1), [0] * (expression.count - 1)
    for _, block in expression.blocks():
        touched = _touched(expression, _changes(expression, block))
        count = _sum(touched)
        for place, own in enumerate(touched):
            alone = int((own & (count == 1)).sum())
            unique[place] += alone
            overlapping[place] += int(own.sum()) - alone
    ratios = [shared / alone if alone else 0.0 for shared, alone in zip(overlapping, unique, strict=True)]
    return _merged(expression, [1 + r * min(ratio, alpha) for ratio in ratios])


def _merged(expression: Expression, scales: Sequence[float]) -> TileFunction:
    import torch

    base = expression.base
    assert base is not None

    def tile(inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        changes = _changes(expression, inputs)
        touched = _touched(expression, changes)
        count = _sum(touched)
        result = torch.zeros_like(changes[0])
        for change, own, scale in zip(changes, touched, scales, strict=True):
            result += torch.where(own, torch.where(count == 1, change * scale, change), 0.0)
        return result.div_(count.clamp(min=1)).add_(inputs[base])

    return tile


def _changes(expression: Expression, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Differences to the base: taken in float32, held in float64."""
    base = expression.base
    assert base is not None
    return [(x - inputs[base]).double() for place, x in enumerate(inputs) if place != base]


def _touched(expression: Expression, changes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """nz_i; a NaN is a change, too, so that it comes through and is reported."""
    epsilon = float(expression.parameters["epsilon"])
    return [(change.abs() <= epsilon).logical_not_() for change in changes]


def _sum(masks: Sequence[torch.Tensor]) -> torch.Tensor:
    total = masks[0].int()
    for mask in masks[1:]:
        total += mask
    return total
