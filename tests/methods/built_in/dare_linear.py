"""dare_linear: the task vectors, each element kept with a probability."""

from __future__ import annotations

from typing import Any

from tests.method_support import MIXED, PAIR, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_chance, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_chance, **{"rescale": True, **options})


CASES = {
    "dare_linear": Case("dare_linear", "abc", base="base", per_model=MIXED),
    "dare_linear with a seed": Case("dare_linear", base="base", per_model=PAIR, whole={"density": 0.5}, seed=7),
    "dare_linear rescaled by the probability": Case(
        "dare_linear", "abc", base="base", per_model=MIXED, whole={"rescale": "paper"}
    ),
}
TYPICAL = {"dare_linear": Case("dare_linear", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
