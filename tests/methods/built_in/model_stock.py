"""model_stock: t·mean(x_i) + (1−t) b, with t from the mean cosine of the differences to b."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs


def formula(x: Inputs, b: Array, filter_wise: bool = False) -> Array:
    d = [value - b for value in x]
    if filter_wise and b.ndim > 1:
        rows = [value.reshape(-1, b.shape[-1]) for value in d]
        t = np.array([ratio([row[place] for row in rows]) for place in range(rows[0].shape[0])])
        t = t.reshape(*b.shape[:-1], 1)
    else:
        t = np.asarray(ratio(d))
    return np.asarray(t * np.mean(x, axis=0) + (1 - t) * b)


def ratio(d: Inputs) -> float:
    cosines = []
    for p, q in combinations(d, 2):
        norms = np.linalg.norm(p) * np.linalg.norm(q)
        cosines.append((p * q).sum() / norms if norms else 0.0)
    c, n = float(np.mean(cosines)), len(d)
    bottom = 1 + (n - 1) * c
    return n * c / bottom if bottom > 1e-6 else 0.0


CASES = {
    "model_stock": Case("model_stock", base="base"),
    "model_stock of three": Case("model_stock", "abc", base="base"),
    "model_stock by rows": Case("model_stock", "abc", base="base", whole={"filter_wise": True}),
}
TYPICAL = {
    "model_stock": Case("model_stock", "abc", base="base"),
    "model_stock by rows": Case("model_stock", "abc", base="base", whole={"filter_wise": True}),
}
