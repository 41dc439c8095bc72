"""breadcrumbs: task vectors without their largest and smallest elements, summed (2312.06795)."""

from __future__ import annotations

import math

from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Band, TaskVectors
from merge_assets.methods.task_vectors import kept, member, mixed_by_magnitude, share

GAMMA = share("gamma", "share of the elements, the largest, that is dropped", 0.01)


def breadcrumbs(expression: Expression) -> TaskVectors:
    """Without the int(gamma·n) largest magnitudes, of the others the int(density·n) largest.

    Fewer of the largest are dropped where less than int(density·n) would be left.
    """
    return without_outliers(expression, consensus=False)


def without_outliers(expression: Expression, *, consensus: bool) -> TaskVectors:
    """:func:`breadcrumbs`, with or without a vote on signs."""
    size, keep = math.prod(expression.shape), kept(expression)
    dropped = [min(int(gamma * size), size - k) for gamma, k in zip(expression.per_model("gamma"), keep, strict=True)]
    cuts = expression.select([[first, first + k] for first, k in zip(dropped, keep, strict=True)])
    return mixed_by_magnitude(expression, [Band(inner, outer) for outer, inner in cuts], keep, consensus=consensus)


METHOD = member(
    "breadcrumbs",
    "Task vectors without their largest and smallest elements, summed.",
    "2312.06795",
    breadcrumbs,
    rescale=False,
    extra=(GAMMA,),
    passes=3,
)
