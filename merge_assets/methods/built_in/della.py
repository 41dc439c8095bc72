"""della: della_linear, with the signs elected (2406.11617)."""

from __future__ import annotations

from merge_assets.methods.built_in.della_linear import EPSILON, thinned_by_rank
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import TaskVectors
from merge_assets.methods.task_vectors import member


def della(expression: Expression) -> TaskVectors:
    """Like :func:`~merge_assets.methods.built_in.della_linear.della_linear`, signs elected."""
    return thinned_by_rank(expression, consensus=True)


METHOD = member(
    "della",
    "Task vectors thinned at random, large elements less often, merged where their signs agree.",
    "2406.11617",
    della,
    normalize=True,
    rescale=True,
    extra=(EPSILON,),
    passes=1,
    random=True,
    rows=True,
)
