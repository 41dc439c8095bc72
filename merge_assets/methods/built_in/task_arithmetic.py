"""task_arithmetic: the base plus a weighted sum of the differences to it (2212.04089)."""

from __future__ import annotations

from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Band, TaskVectors
from merge_assets.methods.task_vectors import member, mixed, share


def task_arithmetic(expression: Expression) -> TaskVectors:
    """Task vectors as they are."""
    return mixed(expression, [Band() for _ in expression.per_model("weight")], consensus=False)


METHOD = member(
    "task_arithmetic",
    "The base plus a weighted sum of the differences to it.",
    "2212.04089",
    task_arithmetic,
    density=share("density", "accepted, of no effect", 1.0),
)
