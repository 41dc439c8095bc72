"""task_arithmetic: b + λ Σ w_i d_i."""

from __future__ import annotations

from typing import Any

from tests.method_support import PAIR, WEIGHTS, Case
from tests.oracles import Array, Inputs, everything, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, everything, **options)


CASES = {
    "task_arithmetic": Case("task_arithmetic", base="base", per_model=PAIR, whole={"lambda": 0.7}),
    "task_arithmetic normalised": Case("task_arithmetic", base="base", per_model=PAIR, whole={"normalize": True}),
}
TYPICAL = {"task_arithmetic": Case("task_arithmetic", "abc", base="base", per_model=WEIGHTS)}
