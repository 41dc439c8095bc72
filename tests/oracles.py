"""Every merge method in float64 numpy, written from its formula alone: what the engine's results are compared with.

:func:`merge` calls the formula of a name, which is in the method's file of :mod:`tests.methods.built_in`, for inputs in recipe
order. Here is what several formulas share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from merge_assets.methods import find_method
from tests.methods.built_in import file_of
from tests.philox import words

Array = npt.NDArray[np.float64]
Inputs = Sequence[Array]
Numbers = Sequence[float]
Rescale = bool | Literal["paper"]


def merge(
    method: str,
    inputs: Inputs,
    *,
    base: int | None = None,
    name: str = "",
    seed: int = 0,
    per_model: Mapping[str, Numbers] | None = None,
    whole: Mapping[str, Any] | None = None,
) -> Array:
    """One output tensor.

    Args:
        method: value of ``merge_method``.
        inputs: all inputs in recipe order.
        base: position of the base among them.
        name: of the output tensor, and
        seed: of the recipe: both only for random masks.
        per_model: parameters with one value per input that is not the base.
        whole: parameters of the whole method.
    """
    x = [value for place, value in enumerate(inputs) if place != base]
    options: dict[str, Any] = {**(per_model or {}), **(whole or {})}
    options.pop("int8_mask", None)
    if "lambda" in options:
        options["lam"] = options.pop("lambda")
    if find_method(method).random:
        options |= {"name": name, "seed": seed}
    return np.asarray(file_of(method).formula(x, None if base is None else inputs[base], **options))


def weighted_sum(weight: Numbers, x: Inputs) -> Array:
    total = np.zeros_like(x[0])
    for w, value in zip(weight, x, strict=True):
        total += w * value
    return total


def arc(v: Array, w: Array, t: float) -> Array:
    """Spherical interpolation of two vectors; the straight line where sin θ is 0, a right angle to a zero vector."""
    norms = np.linalg.norm(v) * np.linalg.norm(w)
    theta = np.arccos(np.clip((v * w).sum() / norms, -1, 1)) if norms else np.pi / 2
    if np.sin(theta) < 1e-6:
        return (1 - t) * v + t * w
    return np.asarray((np.sin((1 - t) * theta) * v + np.sin(t * theta) * w) / np.sin(theta))


# -- task vectors ------------------------------------------------------------------------------------------------------


def deltas(b: Array, x: Inputs) -> list[Array]:
    """Differences to the base in float32, as the specification has them."""
    return [(value.astype(np.float32) - b.astype(np.float32)).astype(np.float64) for value in x]


def task_vectors(
    x: Inputs,
    b: Array,
    sparsified: Callable[..., Array],
    *,
    consensus: bool = False,
    weight: Numbers,
    density: Numbers | None = None,
    gamma: Numbers | None = None,
    epsilon: Numbers | None = None,
    normalize: bool = False,
    rescale: Rescale = False,
    lam: float = 1.0,
    name: str = "",
    seed: int = 0,
) -> Array:
    """b + λ Σ w_i D_i m_i / Σ w_i m_i.

    Args:
        x: inputs without the base.
        b: the base.
        sparsified: gives the kept share at every kept element, else 0: one of the functions below.
        consensus: whether the signs are elected; m_i is 1 without.
        weight: and the others: the parameters of the methods; one value per input, or of the whole method.
    """
    each = {
        "density": [1.0] * len(x) if density is None else density,
        "gamma": [0.0] * len(x) if gamma is None else gamma,
        "epsilon": [0.15] * len(x) if epsilon is None else epsilon,
    }
    sparse = []
    for place, d in enumerate(deltas(b, x)):
        own = {parameter: values[place] for parameter, values in each.items()}
        sparse.append(rescaled(d, sparsified(d, **own, seed=seed, name=name, place=place), rescale))
    weighted = [w * d for w, d in zip(weight, sparse, strict=True)]
    if consensus:
        sign = np.where(np.sum(weighted, axis=0) >= 0, 1.0, -1.0)
        masks = [np.sign(d) == sign for d in weighted]
    else:
        masks = [np.ones(b.shape, dtype=bool) for _ in weighted]
    mix = np.sum([np.where(m, d, 0) for m, d in zip(masks, weighted, strict=True)], axis=0)
    if normalize:
        divisor = np.sum([w * m for m, w in zip(masks, weight, strict=True)], axis=0)
        mix = mix / np.where(divisor == 0, 1, divisor)
    return np.asarray(b + lam * mix)


def everything(d: Array, **_: Any) -> Array:
    return np.ones_like(d)


def by_magnitude(d: Array, *, density: float, gamma: float, **_: Any) -> Array:
    """The share k/n; exactly k = int(density·n) elements are kept.

    In descending order of magnitude, equal ones by position, the first int(gamma·n) are dropped, or fewer if less than
    k would be left, and the next k are kept.
    """
    order = np.argsort(-np.abs(d.ravel()), kind="stable")
    k = int(density * d.size)
    largest = min(int(gamma * d.size), d.size - k)
    share = np.zeros(d.size)
    share[order[largest : largest + k]] = k / d.size
    return share.reshape(d.shape)


def by_chance(d: Array, *, density: float, seed: int, name: str, place: int, **_: Any) -> Array:
    """The density, where the element's random word is below it."""
    return drawn(np.full(d.shape, density), seed, name, place)


def by_ranked_chance(d: Array, *, density: float, epsilon: float, seed: int, name: str, place: int, **_: Any) -> Array:
    """A probability that is linear in the rank of the magnitude within its row, the last dimension."""
    rows = d.reshape(-1, d.shape[-1] if d.ndim else 1)
    width = rows.shape[1]
    rank = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
    if width == 1 or density >= 1:  # nothing is thinned where a dense task vector is asked for
        return drawn(np.full(d.shape, density), seed, name, place)
    ranked = np.clip(density - epsilon + 2 * epsilon * rank / (width - 1), 0, 1)
    return drawn(ranked.reshape(d.shape), seed, name, place)


def drawn(probability: Array, seed: int, name: str, place: int) -> Array:
    """The probability where the element's random word is below it, else 0."""
    found = words(seed, name, place, probability.size).reshape(probability.shape)
    return np.where(found < probability * 2.0**32, probability, 0.0)


def rescaled(d: Array, share: Array, rescale: Rescale) -> Array:
    """The kept elements; made up for by the L1 norm, or each by its own kept share (``paper``)."""
    sparse = np.where(share > 0, d, 0.0)
    if rescale == "paper":
        return np.asarray(sparse / np.where(share > 0, share, 1))
    if rescale and np.abs(sparse).sum() > 0:
        return np.asarray(sparse * (np.abs(d).sum() / np.abs(sparse).sum()))
    return sparse
