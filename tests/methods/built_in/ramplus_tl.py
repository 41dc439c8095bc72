"""ramplus_tl: ram, with what one model alone changed times 1 + r·clamp(ρ_i, 0, α)."""

from __future__ import annotations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs, deltas


def formula(x: Inputs, b: Array, epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2) -> Array:
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


CASES = {
    "ramplus_tl": Case("ramplus_tl", "abc", base="base", whole={"epsilon": 0.05}),
    "ramplus_tl with a low bound": Case(
        "ramplus_tl", "abc", base="base", whole={"epsilon": 0.07, "r": 0.5, "alpha": 10}
    ),
}
TYPICAL = {"ramplus_tl": Case("ramplus_tl", "abc", base="base", whole={"epsilon": 0.03})}
