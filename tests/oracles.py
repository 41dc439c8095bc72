"""Every merge method in float64 numpy, written from its formula alone: what the engine's results are compared with.

Each function takes float64 arrays of one shape. ``x`` are the inputs without the base, ``b`` the base, ``weight`` and
the other per-model parameters one value per ``x``. :func:`merge` calls the one of a name for inputs in recipe order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

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
    if method in TASK_VECTORS:
        assert base is not None
        return task_vectors(inputs[base], x, method, name=name, seed=seed, **options)
    formula: Any = FORMULAS[method]
    if method in WITHOUT_BASE:
        return np.asarray(formula(x, **options))
    if method in MAYBE_BASE:
        return np.asarray(formula(x, b=None if base is None else inputs[base], **options))
    assert base is not None
    return np.asarray(formula(inputs[base], x, **options))


# -- straight and spherical --------------------------------------------------------------------------------------------


def passthrough(x: Inputs, scale: Sequence[float | None] = (None,)) -> Array:
    return x[0] if scale[0] is None else x[0] * scale[0]


def linear(x: Inputs, weight: Numbers, normalize: bool = True) -> Array:
    total = weighted_sum(weight, x)
    return total / sum(weight) if normalize else total


def weighted_sum(weight: Numbers, x: Inputs) -> Array:
    total = np.zeros_like(x[0])
    for w, value in zip(weight, x, strict=True):
        total += w * value
    return total


def slerp(b: Array, x: Inputs, t: float) -> Array:
    norms = np.linalg.norm(b), np.linalg.norm(x[0])
    if min(norms) < 1e-8:
        return (1 - t) * b + t * x[0]
    cosine = float((b * x[0]).sum() / (norms[0] * norms[1]))
    if abs(cosine) > 0.9995:
        return (1 - t) * b + t * x[0]
    return arc(b, x[0], t)


def arc(v: Array, w: Array, t: float) -> Array:
    """Spherical interpolation of two vectors; the straight line where sin θ is 0, a right angle to a zero vector."""
    norms = np.linalg.norm(v) * np.linalg.norm(w)
    theta = np.arccos(np.clip((v * w).sum() / norms, -1, 1)) if norms else np.pi / 2
    if np.sin(theta) < 1e-6:
        return (1 - t) * v + t * w
    return (np.sin((1 - t) * theta) * v + np.sin(t * theta) * w) / np.sin(theta)


def nuslerp(
    x: Inputs,
    weight: Numbers,
    b: Array | None = None,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Array:
    total = sum(weight)
    t = weight[1] / total if abs(total) > 1e-12 else 0.5
    v, w = (x[0], x[1]) if b is None else (x[0] - b, x[1] - b)
    if nuslerp_flatten or v.ndim < 2:
        result = arc(v, w, t)
    else:
        rows = v.reshape(-1, v.shape[-1]), w.reshape(-1, w.shape[-1])
        if nuslerp_row_wise:
            result = np.stack([arc(p, q, t) for p, q in zip(*rows, strict=True)])
        else:
            result = np.stack([arc(p, q, t) for p, q in zip(rows[0].T, rows[1].T, strict=True)], axis=1)
        result = result.reshape(v.shape)
    return result if b is None else b + result


def multislerp(
    x: Inputs, weight: Numbers, b: Array | None = None, normalize_weights: bool = True, eps: float = 1e-8
) -> Array:
    w = [value / sum(weight) for value in weight] if normalize_weights else list(weight)
    vectors = list(x) if b is None else [value - b for value in x]
    norms = [float(np.linalg.norm(v)) for v in vectors]
    units = [v / n if n > eps else np.zeros_like(v) for v, n in zip(vectors, norms, strict=True)]
    mean = weighted_sum(w, units)
    length = np.linalg.norm(mean)
    if length <= eps:  # no direction: documented choice, the straight sum
        result = weighted_sum(w, vectors)
    else:
        mean = mean / length
        tangent = weighted_sum(w, [u - (u * mean).sum() * mean for u in units])
        a = np.linalg.norm(tangent)
        bend = tangent * (np.sin(a) / a) if a > eps else tangent
        result = (mean * np.cos(a) + bend) * float(np.dot(norms, w))
    return result if b is None else b + result


def karcher(x: Inputs, max_iter: float = 10, tol: float = 1e-5) -> Array:
    norms = [float(np.linalg.norm(value)) for value in x]
    units = [value / n for value, n in zip(x, norms, strict=True) if n > 0]
    if not units:
        return np.zeros_like(x[0])
    alpha = 1 / len(units)
    u = alpha * np.sum(units, axis=0)
    u = u / np.linalg.norm(u) if np.linalg.norm(u) > 1e-7 else units[0]
    for _ in range(int(max_iter)):
        tangent = np.zeros_like(u)
        for unit in units:
            theta = np.arccos(np.clip((u * unit).sum(), -1, 1))
            if np.sin(theta) > 1e-7:
                tangent += alpha * theta / np.sin(theta) * (unit - np.cos(theta) * u)
        step = np.linalg.norm(tangent)
        if step > 0:
            u = np.cos(step) * u + np.sin(step) * tangent / step
        if step < tol:
            break
    return float(np.mean(norms)) * u


def model_stock(b: Array, x: Inputs, filter_wise: bool = False) -> Array:
    d = [value - b for value in x]
    if filter_wise and b.ndim > 1:
        rows = [value.reshape(-1, b.shape[-1]) for value in d]
        t = np.array([stock_ratio([row[place] for row in rows]) for place in range(rows[0].shape[0])])
        t = t.reshape(*b.shape[:-1], 1)
    else:
        t = np.asarray(stock_ratio(d))
    return np.asarray(t * np.mean(x, axis=0) + (1 - t) * b)


def stock_ratio(d: Inputs) -> float:
    cosines = []
    for p, q in combinations(d, 2):
        norms = np.linalg.norm(p) * np.linalg.norm(q)
        cosines.append((p * q).sum() / norms if norms else 0.0)
    c, n = float(np.mean(cosines)), len(d)
    bottom = 1 + (n - 1) * c
    return n * c / bottom if bottom > 1e-6 else 0.0


# -- element by element ------------------------------------------------------------------------------------------------


def nearswap(b: Array, x: Inputs, t: float) -> Array:
    distance = np.abs(b - x[0])
    k = np.clip(t / np.where(distance == 0, 1, distance), 0, 1)
    k = np.where(distance == 0, 1, k)
    return k * x[0] + (1 - k) * b


def arcee_fusion(b: Array, x: Inputs) -> Array:
    log_p, log_q = log_softmax(x[0]), log_softmax(b)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1, keepdims=True)
    importance = np.abs(x[0] - b) * np.maximum(divergence, 0)
    q1, median, q3 = np.quantile(importance, [0.25, 0.5, 0.75], method="lower")
    return np.where(importance >= median + 1.5 * (q3 - q1), x[0], b)


def log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def ram(b: Array, x: Inputs, epsilon: float = 1e-5) -> Array:
    return ramplus_tl(b, x, epsilon=epsilon, r=0.0)


def ramplus_tl(b: Array, x: Inputs, epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2) -> Array:
    d = deltas(b, x)
    touched = [np.abs(value) > epsilon for value in d]
    count = np.sum(touched, axis=0)
    result = np.zeros_like(b)
    for value, own in zip(d, touched, strict=True):
        unique, overlap = own & (count == 1), own & (count > 1)
        rho = overlap.sum() / unique.sum() if unique.any() else 0.0
        result += np.where(unique, value * (1 + r * np.clip(rho, 0, alpha)), 0.0)
        result += np.where(overlap, value / np.maximum(count, 1), 0.0)
    return b + result


# -- task vectors ------------------------------------------------------------------------------------------------------

TASK_VECTORS = {
    # name: (sparsified by, consensus, normalize, rescale)
    "task_arithmetic": ("nothing", False, False, False),
    "ties": ("magnitude", True, True, False),
    "dare_linear": ("chance", False, False, True),
    "dare_ties": ("chance", True, False, True),
    "breadcrumbs": ("magnitude", False, False, False),
    "breadcrumbs_ties": ("magnitude", True, False, False),
    "della_linear": ("ranked chance", False, False, True),
    "della": ("ranked chance", True, True, True),
}


def deltas(b: Array, x: Inputs) -> list[Array]:
    """Differences to the base in float32, as the specification has them."""
    return [(value.astype(np.float32) - b.astype(np.float32)).astype(np.float64) for value in x]


def task_vectors(
    b: Array,
    x: Inputs,
    method: str,
    weight: Numbers,
    density: Numbers | None = None,
    gamma: Numbers | None = None,
    epsilon: Numbers | None = None,
    normalize: bool | None = None,
    rescale: Rescale | None = None,
    lam: float = 1.0,
    name: str = "",
    seed: int = 0,
) -> Array:
    by, consensus, default_normalize, default_rescale = TASK_VECTORS[method]
    normalize = default_normalize if normalize is None else normalize
    rescale = default_rescale if rescale is None else rescale
    density = [1.0] * len(x) if density is None else density
    gamma = [0.01 if method.startswith("breadcrumbs") else 0.0] * len(x) if gamma is None else gamma
    epsilon = [0.15] * len(x) if epsilon is None else epsilon
    sparse = []
    for place, d in enumerate(deltas(b, x)):
        if by == "magnitude":
            share = kept_by_magnitude(d, density[place], gamma[place])
        elif by == "chance":
            share = kept_by_chance(np.full(d.shape, density[place]), seed, name, place)
        elif by == "ranked chance":
            share = kept_by_chance(ranked_probability(d, density[place], epsilon[place]), seed, name, place)
        else:
            share = np.ones_like(d)
        sparse.append(rescaled(d, share, rescale))
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


def kept_by_magnitude(d: Array, density: float, gamma: float = 0.0) -> Array:
    """The kept share k/n at every kept element, else 0. Exactly k = int(density·n) elements are kept.

    In descending order of magnitude, equal ones by position, the first int(gamma·n) are dropped, or fewer if less than
    k would be left, and the next k are kept.
    """
    order = np.argsort(-np.abs(d.ravel()), kind="stable")
    k = int(density * d.size)
    largest = min(int(gamma * d.size), d.size - k)
    share = np.zeros(d.size)
    share[order[largest : largest + k]] = k / d.size
    return share.reshape(d.shape)


def kept_by_chance(probability: Array, seed: int, name: str, place: int) -> Array:
    """The probability where the element's random word is below it, else 0."""
    drawn = words(seed, name, place, probability.size).reshape(probability.shape)
    return np.where(drawn < probability * 2.0**32, probability, 0.0)


def ranked_probability(d: Array, density: float, epsilon: float) -> Array:
    """della's probability to keep: linear in the rank of the magnitude within its row (the last dimension)."""
    rows = d.reshape(-1, d.shape[-1] if d.ndim else 1)
    width = rows.shape[1]
    rank = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
    if width == 1 or density >= 1:  # nothing is thinned where a dense task vector is asked for
        return np.full(d.shape, density)
    return np.clip(density - epsilon + 2 * epsilon * rank / (width - 1), 0, 1).reshape(d.shape)


def rescaled(d: Array, share: Array, rescale: Rescale) -> Array:
    """The kept elements; made up for by the L1 norm, or each by its own kept share (``paper``)."""
    sparse = np.where(share > 0, d, 0.0)
    if rescale == "paper":
        return sparse / np.where(share > 0, share, 1)
    if rescale and np.abs(sparse).sum() > 0:
        return np.asarray(sparse * (np.abs(d).sum() / np.abs(sparse).sum()))
    return sparse


def sce(b: Array, x: Inputs, select_topk: float = 1.0) -> Array:
    d = deltas(b, x)
    if select_topk < 1:
        variance = np.var(d, axis=0).ravel()
        chosen = np.argsort(-variance, kind="stable")[: int(select_topk * b.size)]
        selected = np.zeros(b.size, dtype=bool)
        selected[chosen] = True
        d = [np.where(selected.reshape(b.shape), value, 0.0) for value in d]
    squares = [float((value**2).mean()) for value in d]
    total = sum(squares)
    weight = [s / total for s in squares] if total else [1 / len(d)] * len(d)
    sign = np.where(np.sum(d, axis=0) >= 0, 1.0, -1.0)
    masks = [np.sign(value) == sign for value in d]
    top = np.sum([w * m * v for w, m, v in zip(weight, masks, d, strict=True)], axis=0)
    bottom = np.sum([w * m for w, m in zip(weight, masks, strict=True)], axis=0)
    return np.asarray(b + np.where(bottom == 0, 0.0, top / np.where(bottom == 0, 1, bottom)))


FORMULAS = {
    "passthrough": passthrough,
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
    "sce": sce,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
}
WITHOUT_BASE = {"passthrough", "linear", "karcher"}
MAYBE_BASE = {"nuslerp", "multislerp"}
