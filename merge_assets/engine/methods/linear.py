"""linear: weighted mean (model soups, 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from merge_assets.engine.kernel import Expression, TileFunction
from merge_assets.errors import EngineError


def linear(expression: Expression) -> TileFunction:
    """y = Σ w_i x_i, divided by Σ w_i if ``normalize``.

    Raises:
        EngineError: if the weights to normalise by sum to zero.
    """
    weights = expression.per_model("weight")
    if expression.parameters["normalize"]:
        total = sum(weights)
        if total == 0:
            raise EngineError(
                f"tensor {expression.name}: the weights {weights} sum to 0, so they cannot be normalised; "
                "change them or set `normalize: false`"
            )
        weights = [weight / total for weight in weights]

    def tile(inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        result = inputs[0].mul_(weights[0])
        for x, weight in zip(inputs[1:], weights[1:], strict=True):
            result.add_(x, alpha=weight)
        return result

    return tile
