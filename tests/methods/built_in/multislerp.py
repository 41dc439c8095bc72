"""multislerp: from the mean direction along the mean in its tangent space; of tensors, or of differences to b."""

from __future__ import annotations

import numpy as np

from tests.method_support import PAIR, TRIPLE, WEIGHTS, Case
from tests.oracles import Array, Inputs, Numbers, weighted_sum


def formula(x: Inputs, b: Array | None, weight: Numbers, normalize_weights: bool = True, eps: float = 1e-8) -> Array:
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


CASES = {
    "multislerp": Case("multislerp", "abc", per_model=TRIPLE),
    "multislerp of task vectors": Case("multislerp", "abc", base="base", per_model=TRIPLE),
    "multislerp unnormalised": Case("multislerp", per_model=PAIR, whole={"normalize_weights": False}),
}
TYPICAL = {
    "multislerp": Case("multislerp", "abc", base="base", per_model=WEIGHTS),
    "multislerp without a base": Case("multislerp", "abc", per_model=WEIGHTS),
}
