"""breadcrumbs_ties: the task vectors without their largest and smallest elements, where their signs agree."""

from __future__ import annotations

from typing import Any

from tests.method_support import MIXED, WEIGHTS, Case
from tests.oracles import Array, Inputs, by_magnitude, task_vectors


def formula(x: Inputs, b: Array, **options: Any) -> Array:
    return task_vectors(x, b, by_magnitude, consensus=True, **{"gamma": [0.01] * len(x), **options})


CASES = {
    "breadcrumbs_ties": Case("breadcrumbs_ties", "abc", base="base", per_model=MIXED, whole={"gamma": 0.05}),
    "breadcrumbs_ties rescaled": Case(
        "breadcrumbs_ties", "abc", base="base", per_model=MIXED, whole={"gamma": 0.05, "rescale": True}
    ),
}
TYPICAL = {"breadcrumbs_ties": Case("breadcrumbs_ties", "abc", base="base", per_model=WEIGHTS, whole={"density": 0.45})}
