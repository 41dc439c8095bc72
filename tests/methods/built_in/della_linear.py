"""della_linear: the task vectors, each element kept with a probability that rises with its rank in the row."""

from __future__ import annotations

from typing import Any

from tests.method_support import MIXED, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_ranked_chance, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_ranked_chance, **{"rescale": True, **options})


CASES = {
    "della_linear": Case("della_linear", "abc", base="base", per_model=MIXED),
    "della_linear rescaled by the probability": Case(
        "della_linear", "abc", base="base", per_model=MIXED, whole={"rescale": "paper", "epsilon": 0.1}
    ),
}
TYPICAL = {"della_linear": Case("della_linear", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
