"""della: della_linear where the signs agree."""

from __future__ import annotations

from typing import Any

from tests.method_support import MIXED, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_ranked_chance, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_ranked_chance, consensus=True, **{"normalize": True, "rescale": True, **options})


CASES = {
    "della": Case("della", "abc", base="base", per_model=MIXED, seed=3),
    "della unnormalised, not rescaled": Case(
        "della", "abc", base="base", per_model=MIXED, whole={"normalize": False, "rescale": False, "epsilon": 0.4}
    ),
}
TYPICAL = {"della": Case("della", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
