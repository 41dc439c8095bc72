"""della_linear: task vectors thinned at random, large elements less often, summed (2406.11617)."""

from __future__ import annotations

from merge_assets.methods.expression import Expression
from merge_assets.methods.formula import Band, RankedBernoulli, TaskVectors
from merge_assets.methods.task_vectors import key, member, mixed, share

EPSILON = share("epsilon", "how much more likely than `density` a row's largest element is kept", 0.15)


def della_linear(expression: Expression) -> TaskVectors:
    """Kept with a probability from density - epsilon to density + epsilon, by rank in the row."""
    return thinned_by_rank(expression, consensus=False)


def thinned_by_rank(expression: Expression, *, consensus: bool) -> TaskVectors:
    """:func:`della_linear`, with or without a vote on signs."""
    paper = expression.parameters["rescale"] == "paper"
    settings = zip(expression.per_model("density"), expression.per_model("epsilon"), strict=True)
    sparsifiers = [
        # Beyond a probability of 1 nothing would be thinned where the recipe asks for a dense task vector.
        RankedBernoulli(key(expression, place), density, epsilon, paper) if density < 1 else Band()
        for place, (density, epsilon) in enumerate(settings)
    ]
    return mixed(expression, sparsifiers, consensus=consensus)


METHOD = member(
    "della_linear",
    "Task vectors thinned at random, large elements less often, summed.",
    "2406.11617",
    della_linear,
    rescale=True,
    extra=(EPSILON,),
    passes=1,
    random=True,
    rows=True,
)
