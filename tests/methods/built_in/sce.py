"""sce: differences to b weighted by their mean square, where their signs agree."""

from __future__ import annotations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs, deltas


def formula(x: Inputs, b: Array, select_topk: float = 1.0) -> Array:
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


CASES = {
    "sce": Case("sce", "abc", base="base"),
    "sce of a part": Case("sce", "abc", base="base", whole={"select_topk": 0.35}),
}
TYPICAL = {
    "sce": Case("sce", "abc", base="base"),
    "sce of a part": Case("sce", "abc", base="base", whole={"select_topk": 0.4}),
}
