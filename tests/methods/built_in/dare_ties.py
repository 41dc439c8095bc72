"""dare_ties: the task vectors, each element kept with a probability, where their signs agree."""

from __future__ import annotations

from typing import Any

from tests.method_support import MIXED, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_chance, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_chance, consensus=True, **{"rescale": True, **options})


CASES = {
    "dare_ties": Case("dare_ties", "abc", base="base", per_model=MIXED, whole={"lambda": 0.6}),
    "dare_ties normalised, not rescaled": Case(
        "dare_ties", "abc", base="base", per_model=MIXED, whole={"normalize": True, "rescale": False}
    ),
}
TYPICAL = {"dare_ties": Case("dare_ties", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
