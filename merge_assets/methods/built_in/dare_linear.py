"""dare_linear: task vectors thinned at random and made up for, summed (2311.03099)."""

from __future__ import annotations

from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Band, Bernoulli, TaskVectors
from merge_assets.methods.task_vectors import key, member, mixed


def dare_linear(expression: Expression) -> TaskVectors:
    """Every element kept with probability ``density``."""
    return thinned(expression, consensus=False)


def thinned(expression: Expression, *, consensus: bool) -> TaskVectors:
    """:func:`dare_linear`, with or without a vote on signs."""
    densities = expression.per_model("density")
    sparsifiers = [
        Bernoulli(key(expression, place), density) if density < 1 else Band() for place, density in enumerate(densities)
    ]
    return mixed(expression, sparsifiers, consensus=consensus, shares=densities)


METHOD = member(
    "dare_linear",
    "Task vectors thinned at random and made up for, summed.",
    "2311.03099",
    dare_linear,
    rescale=True,
    passes=1,
    random=True,
)
