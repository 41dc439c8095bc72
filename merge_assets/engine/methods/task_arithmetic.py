"""task_arithmetic: base plus weighted task vectors (2212.04089)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from merge_assets.engine.kernel import Expression, TileFunction, deltas


def task_arithmetic(expression: Expression) -> TileFunction:
    """y = b + λ Σ w_i (x_i − b), the sum divided by Σ w_i if ``normalize`` and that is not 0."""
    base = expression.base
    assert base is not None
    weights = expression.per_model("weight")
    factor = float(expression.parameters["lambda"])
    if expression.parameters["normalize"]:
        factor /= sum(weights) or 1.0

    def tile(inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        result = inputs[base].clone()
        for delta, weight in zip(deltas(inputs, base), weights, strict=True):
            result.add_(delta, alpha=factor * weight)
        return result

    return tile
