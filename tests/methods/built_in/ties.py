"""ties: the largest elements of each task vector, where their signs agree."""

from __future__ import annotations

from typing import Any

from tests.method_support import MIXED, PAIR, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_magnitude, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_magnitude, consensus=True, **{"normalize": True, "rescale": False, **options})


CASES = {
    "ties": Case("ties", base="base", per_model=PAIR, whole={"density": 0.4, "lambda": 1.3}),
    "ties, each its own": Case("ties", "abc", base="base", per_model=MIXED),
    "ties with a negative weight": Case(
        "ties", base="base", per_model={"weight": [0.37, -0.9]}, whole={"density": 0.5, "normalize": False}
    ),
    "ties rescaled": Case("ties", base="base", per_model=PAIR, whole={"density": 0.25, "rescale": True}),
    "ties rescaled by the share": Case("ties", "abc", base="base", per_model=MIXED, whole={"rescale": "paper"}),
    "ties at full density": Case("ties", base="base", per_model=PAIR),
    "ties that keep nothing": Case("ties", base="base", per_model=PAIR, whole={"density": 0}),
}
TYPICAL = {"ties": Case("ties", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
