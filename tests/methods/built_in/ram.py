"""ram: b plus the mean of the changes above ε."""

from __future__ import annotations

from tests.method_support import Case
from tests.methods.built_in import ramplus_tl
from tests.oracles import Array, Inputs


def formula(x: Inputs, b: Array, epsilon: float = 1e-5) -> Array:
    return ramplus_tl.formula(x, b, epsilon=epsilon, r=0.0)


CASES = {"ram": Case("ram", "abc", base="base", whole={"epsilon": 0.05})}
TYPICAL = {"ram": Case("ram", "abc", base="base", whole={"epsilon": 0.03})}
