"""dare_ties: dare_linear, with the signs elected (2311.03099)."""

from __future__ import annotations

from merge_assets.methods.built_in.dare_linear import thinned
from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import TaskVectors
from merge_assets.methods.task_vectors import member


def dare_ties(expression: Expression) -> TaskVectors:
    """Like :func:`~merge_assets.methods.built_in.dare_linear.dare_linear`, signs elected."""
    return thinned(expression, consensus=True)


METHOD = member(
    "dare_ties",
    "Task vectors thinned at random and made up for, merged where their signs agree.",
    "2311.03099",
    dare_ties,
    rescale=True,
    passes=1,
    random=True,
)
