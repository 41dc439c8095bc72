"""passthrough: y = x · scale."""

from __future__ import annotations

from collections.abc import Sequence

from tests.method_support import Case
from tests.oracles import Array, Inputs


def formula(x: Inputs, b: None, scale: Sequence[float | None] = (None,)) -> Array:
    return x[0] if scale[0] is None else x[0] * scale[0]


CASES = {"scaled passthrough": Case("passthrough", "a", per_model={"scale": [1.7]})}
TYPICAL = {"passthrough": Case("passthrough", "a", per_model={"scale": [0.7]})}
