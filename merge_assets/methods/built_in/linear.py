"""linear: weighted mean (model soups, 2203.05482)."""

from __future__ import annotations

from merge_assets.methods.declaration import WEIGHT, Method, Parameter
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Combination
from merge_assets.methods.rows import total


def linear(expression: Expression) -> Combination:
    """y = Σ w_i x_i, divided by Σ w_i if ``normalize``."""
    return Combination(weights(expression, normalize="normalize"))


def weights(expression: Expression, *, normalize: str) -> list[float]:
    """The inputs' weights, divided by their sum if the parameter called ``normalize`` says so; the plan refuses a sum of 0."""
    found = expression.per_model("weight")
    if not expression.parameters[normalize]:
        return found
    whole = total(found)
    return [weight / whole for weight in found]


METHOD = Method(
    name="linear",
    summary="Weighted mean of the inputs.",
    paper="2203.05482",
    parameters=(
        WEIGHT,
        Parameter("normalize", "whether the weights are divided by their sum", default=True, boolean=True),
    ),
    kernel=linear,
    divides="normalize",
)
