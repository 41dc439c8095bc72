"""Exponential, logarithm, sine and arc cosine of our own: right to a few units in the last place, the same for floats and
tensors, and of nothing but operations that are rounded correctly everywhere."""

from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest
import torch

from merge_assets.methods import elementary
from merge_assets.methods.elementary import arc_cosine, exponential, logarithm, root, sine


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def spread_out(low: float, high: float) -> list[float]:
    return np.linspace(low, high, 4001).tolist()


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments", "scale"),
    [
        (sine, math.sin, [*spread_out(-7, 7), 1e-300, -1e-9, 3.0, math.pi, 2 * math.pi], 1.0),
        (arc_cosine, math.acos, [*spread_out(-1, 1), 1 - 1e-15, -1 + 1e-12, 1e-300, 0.9995, -1.0, 1.0], 0.0),
    ],
)
def test_angles(ours, theirs, arguments: list[float], scale: float) -> None:
    found = [ours(x) for x in arguments]
    for x, value in zip(arguments, found, strict=True):
        assert abs(value - theirs(x)) <= 8 * math.ulp(max(scale, abs(theirs(x)))), x
    assert ours(tensor(arguments)).tolist() == found


def test_small_angles_keep_their_digits() -> None:
    for x in (1e-8, 1e-3, 0.1):
        assert abs(sine(x) - math.sin(x)) <= 4 * math.ulp(x)


def test_exponentials() -> None:
    arguments = [*spread_out(-40, 40), -690.0, 1e-300, 0.0, -1e-17]
    for x, value in zip(arguments, exponential(tensor(arguments), torch.int64).tolist(), strict=True):
        assert abs(value - math.exp(x)) <= 8 * math.ulp(math.exp(x)), x
    low, none = exponential(tensor([-math.inf, math.nan]), torch.int64).tolist()
    assert low < 1e-300 and math.isnan(none)


def test_logarithms() -> None:
    arguments = [*spread_out(1, 3), *spread_out(3, 1e6), 2.0**50]
    for x, value in zip(arguments, logarithm(tensor(arguments), torch.int64).tolist(), strict=True):
        assert abs(value - math.log(x)) <= 8 * math.ulp(max(math.log(x), 0.5)), x


def test_no_function_of_a_library_is_used() -> None:
    """Which would be another one on another machine."""
    used = {node.attr for node in ast.walk(ast.parse(inspect.getsource(elementary))) if isinstance(node, ast.Attribute)}
    exact = {"clamp", "round_", "sub_", "mul_", "div_", "floor", "sqrt", "where"}
    moved = {"nan_to_num_", "masked_fill_", "to", "view", "clone", "numpy", "dtype", "device", "type"}
    assert used <= exact | moved | {"abc", "pi", "inf", "factorial"}


def test_of_minus_infinity_the_exponential_is_nothing() -> None:
    """So that a softmax of it has a NaN where it is multiplied, which is reported."""
    assert exponential(tensor([-math.inf, 0.0]), torch.int64).tolist() == [0.0, 1.0]


def test_roots_are_correctly_rounded() -> None:
    """As those of the processor are, which Python has from it; torch's own on the CPU are not."""
    arguments = [*spread_out(0, 3), 1e-320, 1e308, 2.0]
    assert root(tensor(arguments)).tolist() == [math.sqrt(x) for x in arguments]
