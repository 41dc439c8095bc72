"""nuslerp: on the arc between two vectors: the tensors, their rows or their columns, or differences to b."""

from __future__ import annotations

import numpy as np

from tests.method_support import PAIR, Case
from tests.oracles import Array, Inputs, Numbers, arc


def formula(
    x: Inputs, b: Array | None, weight: Numbers, nuslerp_flatten: bool = True, nuslerp_row_wise: bool = False
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


ROWS = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
COLUMNS = {"nuslerp_flatten": False}
CASES = {
    "nuslerp": Case("nuslerp", per_model=PAIR),
    "nuslerp of task vectors": Case("nuslerp", base="base", per_model=PAIR),
    "nuslerp with a listed base": Case("nuslerp", ["a", "base", "b"], base="base", per_model=PAIR),
    "nuslerp with weights that sum to zero": Case("nuslerp", per_model={"weight": [0.5, -0.5]}),
    "nuslerp by rows": Case("nuslerp", per_model=PAIR, whole=ROWS),
    "nuslerp by columns": Case("nuslerp", per_model=PAIR, whole=COLUMNS),
    "nuslerp of task vectors by rows": Case("nuslerp", base="base", per_model=PAIR, whole=ROWS),
    "nuslerp of task vectors by columns": Case("nuslerp", base="base", per_model=PAIR, whole=COLUMNS),
}
TYPICAL = {
    "nuslerp": Case("nuslerp", base="base", per_model={"weight": [0.2, 0.5]}),
    "nuslerp without a base": Case("nuslerp", per_model={"weight": [0.2, 0.5]}),
    "nuslerp by rows": Case("nuslerp", per_model={"weight": [0.2, 0.5]}, whole=ROWS),
    "nuslerp by columns": Case("nuslerp", per_model={"weight": [0.2, 0.5]}, whole=COLUMNS),
}
