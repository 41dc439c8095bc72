"""linear: weighted mean (model soups, 2203.05482)."""

from __future__ import annotations

from merge_assets.engine.formula import Combination
from merge_assets.engine.kernel import Expression
from merge_assets.errors import EngineError


def linear(expression: Expression) -> Combination:
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
    return Combination(weights)
