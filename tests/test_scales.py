"""Contract of axes: every value has a place within, marks are round and few, and what no other point beats is told."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.scales import axis, undominated

VALUES = st.lists(st.integers(-(10**9), 10**9).map(lambda x: x / 1e5), min_size=1, max_size=6)
COSTS = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=14)


@given(VALUES)
def test_values_lie_within_in_their_order_and_marks_are_few(values: list[float]) -> None:
    at, marks = axis(values)
    places = [at(value) for value in sorted(values)]
    assert places == sorted(places) and places[0] >= 0 and places[-1] <= 1
    assert 2 <= len(marks) <= 7
    assert all(-1e-6 <= at(mark) <= 1 + 1e-6 for mark in marks)


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=6))
def test_a_logarithmic_axis_goes_by_ratios_and_has_powers_of_ten_where_it_is_long(values: list[float]) -> None:
    at, marks = axis(values, logarithmic=True)
    assert all(0 <= at(value) <= 1 for value in values)
    assert at(20) - at(10) == pytest.approx(at(2) - at(1))
    if max(values) / min(values) > 1e4:
        assert marks and all(math.isclose(math.log10(mark), round(math.log10(mark)), abs_tol=1e-9) for mark in marks)


@given(COSTS)
def test_a_point_is_beaten_by_one_that_costs_no_more_by_any_measure_and_less_by_one(
    costs: list[tuple[float, ...]],
) -> None:
    expected = [
        not any(all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in costs)
        for one in costs
    ]
    assert undominated(costs) == expected
