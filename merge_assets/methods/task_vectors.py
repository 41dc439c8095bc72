"""What the task-vector family shares: differences to the base, sparsified, and summed on it with or without a vote on signs.

    y = b + λ Σ w_i D_i m_i / Σ w_i m_i        (the division only with ``normalize``)

Its methods differ in how a task vector becomes D_i and in whether the models elect a sign (m_i), see methods.md. With
``rescale`` D_i gets the L1 norm of the whole task vector, with ``rescale: paper`` it is divided by the share kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from merge_assets.methods.declaration import WEIGHT, Method, Parameter
from merge_assets.methods.expression import Expression, Kernel
from merge_assets.methods.formula import Band, Sparsifier, TaskVectors, mask_key

INT8_MASK = Parameter("int8_mask", "accepted, of no effect", default=False, boolean=True)
_LAMBDA = Parameter("lambda", "factor of what is added to the base", default=1.0)


def share(name: str, meaning: str, default: float) -> Parameter:
    """A parameter that is a share of the elements of each model's task vector."""
    return Parameter(name, meaning, per_model=True, default=default, at_least=0.0, at_most=1.0)


DENSITY = share("density", "share of the elements that is kept", 1.0)


def member(
    name: str,
    summary: str,
    paper: str,
    kernel: Kernel,
    *,
    density: Parameter = DENSITY,
    normalize: bool = False,
    rescale: bool | None = None,
    extra: tuple[Parameter, ...] = (),
    passes: int = 0,
    random: bool = False,
    rows: bool = False,
) -> Method:
    """The declaration of a method of the family; ``rescale`` None means that nothing is left out that could be made up for."""
    parameters = (
        WEIGHT,
        density,
        *extra,
        Parameter(
            "normalize",
            "whether the sum is divided by that of the weights that took part",
            default=normalize,
            boolean=True,
        ),
        _LAMBDA,
    )
    if rescale is not None:
        meaning = "whether what is left out is made up for: by the L1 norm, or by the share that is kept (`paper`)"
        parameters += (Parameter("rescale", meaning, default=rescale, boolean=True, words=("paper",)),)
    return Method(
        name=name,
        summary=summary,
        paper=paper,
        parameters=(*parameters, INT8_MASK),
        kernel=kernel,
        needs_base=True,
        passes=passes,
        random=random,
        rows=rows,
    )


def kept(expression: Expression) -> list[int]:
    """k = int(density·n) of every model."""
    size = math.prod(expression.shape)
    return [int(density * size) for density in expression.per_model("density")]


def key(expression: Expression, place: int) -> tuple[int, int]:
    """The key of the random mask of one model."""
    return mask_key(int(expression.parameters["seed"]), expression.name, place)


def mixed(
    expression: Expression, sparsifiers: Sequence[Sparsifier], *, consensus: bool, shares: Sequence[float] | None = None
) -> TaskVectors:
    """The formula of the family.

    Args:
        expression: the output tensor.
        sparsifiers: how each task vector becomes D_i.
        consensus: whether the models elect a sign.
        shares: how much of each task vector is kept; needed where that is not all, and no sparsifier divides by it.
    """
    weights = expression.per_model("weight")
    scales = _scales(expression, sparsifiers, shares or [1.0] * len(weights))
    factors = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
    return TaskVectors(
        sparsifiers=sparsifiers,
        weights=weights,
        factors=factors,
        votes=factors if consensus else None,
        normalize=bool(expression.parameters["normalize"]),
        factor=float(expression.parameters["lambda"]),
    )


def mixed_by_magnitude(
    expression: Expression, bands: Sequence[Band], keep: Sequence[int], *, consensus: bool
) -> TaskVectors:
    """The formula where each band keeps so many elements."""
    size = math.prod(expression.shape)
    return mixed(expression, bands, consensus=consensus, shares=[k / size if size else 1.0 for k in keep])


def _scales(expression: Expression, sparsifiers: Sequence[Sparsifier], shares: Sequence[float]) -> list[float]:
    rescale = expression.parameters.get("rescale", False)
    if rescale == "paper":
        return [1 / share if share else 1.0 for share in shares]
    if not rescale or all(sparsifier == Band() for sparsifier in sparsifiers):
        return [1.0] * len(sparsifiers)
    return [norms.dense_l1 / norms.l1 if norms.l1 else 1.0 for norms in expression.norms(sparsifiers)]
