"""karcher: the mean of directions on the sphere, found by steps along the mean in the tangent space."""

from __future__ import annotations

import numpy as np

from tests.method_support import Case
from tests.oracles import Array, Inputs


def formula(x: Inputs, b: None, max_iter: float = 10, tol: float = 1e-5) -> Array:
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
    return np.asarray(float(np.mean(norms)) * u)


CASES = {
    "karcher of two": Case("karcher"),
    "karcher of three": Case("karcher", "abc"),
    "karcher of the base and two far from it": Case("karcher", ["base", "far", "a"]),
    "karcher after one step": Case("karcher", ["base", "far", "a"], whole={"max_iter": 1}),
    "karcher without a step": Case("karcher", ["base", "far", "a"], whole={"max_iter": 0}),
}
TYPICAL = {"karcher": Case("karcher", "abc")}
