"""Quantiles of streamed values are those of numpy; row sums do not depend on how a tensor is cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.engine.quantiles import quantiles
from merge_assets.methods.rows import column_sums, row_sums

values = st.one_of(
    st.floats(0, 2.0**127, width=32, allow_subnormal=True),
    st.sampled_from([0.0, 1.0, float(np.nextafter(np.float32(1), np.float32(2))), 1e-45, 3e-39]),
)


@given(st.lists(values, min_size=1, max_size=60), st.integers(1, 20), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_exact(numbers: list[float], block: int, shares: list[float]) -> None:
    everything = torch.tensor(numbers, dtype=torch.float32)

    def stream() -> Iterator[torch.Tensor]:
        yield from everything.split(block)

    expected = np.quantile(everything.double().numpy(), shares, method="lower")
    np.testing.assert_array_equal(quantiles(stream, len(numbers), shares), expected)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 64, 1000, 4097])
def test_sums_of_rows_do_not_depend_on_the_number_of_rows(width: int) -> None:
    matrix = torch.randn(37, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    whole = row_sums(matrix)
    torch.testing.assert_close(whole, matrix.sum(1), rtol=1e-12, atol=1e-12)
    for rows in (1, 5, 36):
        assert torch.equal(torch.cat([row_sums(part) for part in matrix.split(rows)]), whole)
    torch.testing.assert_close(column_sums(matrix), matrix.sum(0), rtol=1e-12, atol=1e-12)
