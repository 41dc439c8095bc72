"""slerp: on the arc from b to x; the straight line where that is nearly one."""

from __future__ import annotations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs, arc


def formula(x: Inputs, b: Array, t: float) -> Array:
    norms = np.linalg.norm(b), np.linalg.norm(x[0])
    if min(norms) < 1e-8:
        return (1 - t) * b + t * x[0]
    cosine = float((b * x[0]).sum() / (norms[0] * norms[1]))
    if abs(cosine) > 0.9995:
        return (1 - t) * b + t * x[0]
    return arc(b, x[0], t)


CASES = {
    "slerp": Case("slerp", base="a", whole={"t": 0.3}),
    "slerp from the second": Case("slerp", base="b", whole={"t": 0.3}),
    "slerp with an unlisted base": Case("slerp", "b", base="a", whole={"t": 0.6}),
    "slerp beyond the ends": Case("slerp", "b", base="a", whole={"t": 1.4}),
}
TYPICAL = {"slerp": Case("slerp", "a", base="base", whole={"t": 0.3})}
