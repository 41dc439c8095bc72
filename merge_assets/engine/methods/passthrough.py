"""passthrough: y = x, or x·scale."""

from __future__ import annotations

from merge_assets.engine.formula import Combination
from merge_assets.engine.kernel import Expression


def passthrough(expression: Expression) -> Combination:
    """The only input, times ``scale`` where the recipe gives one."""
    scale = expression.optional("scale")[0]
    return Combination([1.0 if scale is None else scale])
