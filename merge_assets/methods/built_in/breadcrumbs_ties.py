"""breadcrumbs_ties: breadcrumbs, with the signs elected (2312.06795)."""

from __future__ import annotations

from merge_assets.methods.built_in.breadcrumbs import GAMMA, without_outliers
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import TaskVectors
from merge_assets.methods.task_vectors import member


def breadcrumbs_ties(expression: Expression) -> TaskVectors:
    """Like :func:`~merge_assets.methods.built_in.breadcrumbs.breadcrumbs`, signs elected."""
    return without_outliers(expression, consensus=True)


METHOD = member(
    "breadcrumbs_ties",
    "Task vectors without their largest and smallest elements, merged where their signs agree.",
    "2312.06795",
    breadcrumbs_ties,
    rescale=False,
    extra=(GAMMA,),
    passes=3,
)
