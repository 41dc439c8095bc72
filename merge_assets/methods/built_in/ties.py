"""ties: task vectors trimmed to their largest elements, merged where their signs agree (2306.01708)."""

from __future__ import annotations

from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Band, TaskVectors
from merge_assets.methods.task_vectors import kept, member, mixed_by_magnitude


def ties(expression: Expression) -> TaskVectors:
    """The k = int(density·n) largest magnitudes of each, equal ones by position; signs elected."""
    keep = kept(expression)
    cuts = expression.select([[k] for k in keep])
    return mixed_by_magnitude(expression, [Band(inner) for (inner,) in cuts], keep, consensus=True)


METHOD = member(
    "ties",
    "Task vectors trimmed to their largest elements, merged where their signs agree.",
    "2306.01708",
    ties,
    normalize=True,
    rescale=False,
    passes=3,
)
