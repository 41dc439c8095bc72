"""The task-vector family: differences to the base, sparsified, and summed on it with or without a vote on signs.

    y = b + λ Σ w_i D_i m_i / Σ w_i m_i        (the division only with ``normalize``)

Eight methods differ in how a task vector becomes D_i and in whether the models elect a sign (m_i), see methods.md. With
``rescale`` D_i gets the L1 norm of the whole task vector, with ``rescale: paper`` it is divided by the share kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from merge_assets.engine.formula import Band, Bernoulli, RankedBernoulli, Sparsifier, TaskVectors
from merge_assets.engine.kernel import Expression
from merge_assets.engine.masks import mask_key


def task_arithmetic(expression: Expression) -> TaskVectors:
    """Task vectors as they are (2212.04089)."""
    return _mixed(expression, [Band() for _ in expression.per_model("weight")], consensus=False)


def ties(expression: Expression) -> TaskVectors:
    """The k = int(density·n) largest magnitudes of each, equal ones by position; signs elected (2306.01708)."""
    size = math.prod(expression.shape)
    keep = [int(density * size) for density in expression.per_model("density")]
    cuts = expression.select([[k] for k in keep])
    return _magnitude(expression, [Band(inner) for (inner,) in cuts], keep, consensus=True)


def breadcrumbs(expression: Expression) -> TaskVectors:
    """Without the int(gamma·n) largest magnitudes, of the others the int(density·n) largest (2312.06795).

    Fewer of the largest are dropped where less than int(density·n) would be left.
    """
    return _breadcrumbs(expression, consensus=False)


def breadcrumbs_ties(expression: Expression) -> TaskVectors:
    """Like :func:`breadcrumbs`, signs elected."""
    return _breadcrumbs(expression, consensus=True)


def dare_linear(expression: Expression) -> TaskVectors:
    """Every element kept with probability ``density`` (2311.03099)."""
    return _dare(expression, consensus=False)


def dare_ties(expression: Expression) -> TaskVectors:
    """Like :func:`dare_linear`, signs elected."""
    return _dare(expression, consensus=True)


def della_linear(expression: Expression) -> TaskVectors:
    """Kept with a probability from density - epsilon to density + epsilon, by rank in the row (2406.11617)."""
    return _della(expression, consensus=False)


def della(expression: Expression) -> TaskVectors:
    """Like :func:`della_linear`, signs elected."""
    return _della(expression, consensus=True)


def _breadcrumbs(expression: Expression, *, consensus: bool) -> TaskVectors:
    size = math.prod(expression.shape)
    keep = [int(density * size) for density in expression.per_model("density")]
    dropped = [min(int(gamma * size), size - k) for gamma, k in zip(expression.per_model("gamma"), keep, strict=True)]
    cuts = expression.select([[first, first + k] for first, k in zip(dropped, keep, strict=True)])
    return _magnitude(expression, [Band(inner, outer) for outer, inner in cuts], keep, consensus=consensus)


def _magnitude(expression: Expression, bands: Sequence[Band], keep: Sequence[int], *, consensus: bool) -> TaskVectors:
    size = math.prod(expression.shape)
    return _mixed(expression, bands, consensus=consensus, kept=[k / size if size else 1.0 for k in keep])


def _dare(expression: Expression, *, consensus: bool) -> TaskVectors:
    densities = expression.per_model("density")
    sparsifiers = [
        Bernoulli(_key(expression, place), density) if density < 1 else Band()
        for place, density in enumerate(densities)
    ]
    return _mixed(expression, sparsifiers, consensus=consensus, kept=densities)


def _della(expression: Expression, *, consensus: bool) -> TaskVectors:
    paper = expression.parameters["rescale"] == "paper"
    settings = zip(expression.per_model("density"), expression.per_model("epsilon"), strict=True)
    sparsifiers = [
        # Beyond a probability of 1 nothing would be thinned where the recipe asks for a dense task vector.
        RankedBernoulli(_key(expression, place), density, epsilon, paper) if density < 1 else Band()
        for place, (density, epsilon) in enumerate(settings)
    ]
    return _mixed(expression, sparsifiers, consensus=consensus)


def _key(expression: Expression, place: int) -> tuple[int, int]:
    return mask_key(int(expression.parameters["seed"]), expression.name, place)


def _mixed(
    expression: Expression, sparsifiers: Sequence[Sparsifier], *, consensus: bool, kept: Sequence[float] | None = None
) -> TaskVectors:
    weights = expression.per_model("weight")
    scales = _scales(expression, sparsifiers, kept or [1.0] * len(weights))
    factors = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
    return TaskVectors(
        sparsifiers=sparsifiers,
        weights=weights,
        factors=factors,
        votes=factors if consensus else None,
        normalize=bool(expression.parameters["normalize"]),
        factor=float(expression.parameters["lambda"]),
    )


def _scales(expression: Expression, sparsifiers: Sequence[Sparsifier], kept: Sequence[float]) -> list[float]:
    rescale = expression.parameters.get("rescale", False)
    if rescale == "paper":
        return [1 / share if share else 1.0 for share in kept]
    if not rescale or all(sparsifier == Band() for sparsifier in sparsifiers):
        return [1.0] * len(sparsifiers)
    return [norms.dense_l1 / norms.l1 if norms.l1 else 1.0 for norms in expression.norms(sparsifiers)]
