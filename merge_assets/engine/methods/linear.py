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
    return Combination(weights(expression, normalize="normalize"))


def weights(expression: Expression, *, normalize: str) -> list[float]:
    """The inputs' weights, divided by their sum if the parameter called ``normalize`` says so.

    Raises:
        EngineError: if the sum is zero.
    """
    found = expression.per_model("weight")
    if not expression.parameters[normalize]:
        return found
    total = sum(found)
    if total == 0:
        raise EngineError(
            f"tensor {expression.name}: the weights {found} sum to 0, so they cannot be normalised; "
            f"change them or set `{normalize}: false`"
        )
    return [weight / total for weight in found]
