"""passthrough: y = x, or x·scale."""

from __future__ import annotations

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Combination


def passthrough(expression: Expression) -> Combination:
    """The only input, times ``scale`` where the recipe gives one."""
    scale = expression.optional("scale")[0]
    return Combination([1.0 if scale is None else scale])


METHOD = Method(
    name="passthrough",
    summary="The input as it is, or scaled.",
    parameters=(Parameter("scale", "factor", per_model=True),),
    kernel=passthrough,
    most=1,
)
