"""The kernels in C: fast paths give the bits of the general loops."""

from __future__ import annotations

from ctypes import c_void_p

import numpy as np
import pytest

from merge_assets.engine.native import InputArrays
from merge_assets.engine.native.statistics import gram


@pytest.mark.parametrize("count", [1, 511, 512, 512 * 5 + 77])
@pytest.mark.parametrize("base", [None, 0, 1, 2])
def test_inner_products_of_a_pair_do_not_depend_on_the_dtype_that_holds_its_values(
    count: int, base: int | None
) -> None:
    rng = np.random.default_rng(count)
    narrow = [rng.standard_normal(count).astype("<f4").view("<u4") >> 16 for _ in range(2 if base is None else 3)]

    def products(arrays: list[np.ndarray], dtype: str) -> list[list[float]]:
        addresses = (c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        return gram(lambda: iter([(0, count)]), InputArrays(addresses, [dtype] * len(arrays), base), 2)

    fast = products([bits.astype("<u2") for bits in narrow], "BF16")
    general = products([(bits << 16).view("<f4") for bits in narrow], "F32")
    assert fast == general
    values = [(bits << 16).view("<f4").astype(np.float64) for bits in narrow]
    pair = [v - values[base] for place, v in enumerate(values) if place != base] if base is not None else values
    assert np.allclose(fast, [[float(x @ y) for y in pair] for x in pair], rtol=1e-12)
