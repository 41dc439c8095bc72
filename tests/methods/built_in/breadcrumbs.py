"""breadcrumbs: the task vectors without their largest and smallest elements."""

from __future__ import annotations

from typing import Any

from tests.method_support import PAIR, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_magnitude, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_magnitude, **{"gamma": [0.01] * len(x), **options})


CASES = {
    "breadcrumbs": Case("breadcrumbs", base="base", per_model=PAIR | {"gamma": [0.1, 0.03]}, whole={"density": 0.6}),
    "breadcrumbs as it comes": Case("breadcrumbs", base="base", per_model=PAIR),
    "breadcrumbs with little to drop": Case(
        "breadcrumbs", base="base", per_model=PAIR, whole={"density": 0.95, "gamma": 0.1}
    ),
}
TYPICAL = {"breadcrumbs": Case("breadcrumbs", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
