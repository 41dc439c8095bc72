"""linear: y = Σ w_i x_i, divided by Σ w_i."""

from __future__ import annotations

from tests.method_support import PAIR, TRIPLE, WEIGHTS, Case
from tests.oracles import Array, Inputs, Numbers, weighted_sum


def formula(x: Inputs, b: None, weight: Numbers, normalize: bool = True) -> Array:
    total = weighted_sum(weight, x)
    return total / sum(weight) if normalize else total


CASES = {
    "linear": Case("linear", "abc", per_model=TRIPLE),
    "linear of one": Case("linear", "a", per_model={"weight": [0.5]}, whole={"normalize": False}),
    "linear unnormalised": Case("linear", per_model=PAIR, whole={"normalize": False}),
}
TYPICAL = {"linear": Case("linear", "abc", per_model=WEIGHTS)}
