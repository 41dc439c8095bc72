"""linear: weighted mean (model soups, 2203.05482)."""

from __future__ import annotations

from merge_assets.engine.formula import Combination
from merge_assets.engine.kernel import Expression


def linear(expression: Expression) -> Combination:
    """y = Σ w_i x_i, divided by Σ w_i if ``normalize``."""
    return Combination(weights(expression, normalize="normalize"))


def weights(expression: Expression, *, normalize: str) -> list[float]:
    """The inputs' weights, divided by their sum if the parameter called ``normalize`` says so; the plan refuses a sum of 0."""
    found = expression.per_model("weight")
    if not expression.parameters[normalize]:
        return found
    total = sum(found)
    return [weight / total for weight in found]
