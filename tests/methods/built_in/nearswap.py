"""nearswap: k x + (1−k) b with k = clamp(t/|b−x|, 0, 1), element by element."""

from __future__ import annotations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs


def formula(x: Inputs, b: Array, t: float) -> Array:
    distance = np.abs(b - x[0])
    k = np.clip(t / np.where(distance == 0, 1, distance), 0, 1)
    k = np.where(distance == 0, 1, k)
    return np.asarray(k * x[0] + (1 - k) * b)


CASES = {"nearswap": Case("nearswap", "a", base="base", whole={"t": 0.02})}
TYPICAL = CASES
