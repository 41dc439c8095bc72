"""A result is the representable number nearest to the float64 that was computed, ties to even: rounded once, in C and in torch.

The oracle is exact: fractions and integers, whose rounding is Python's.
"""

from __future__ import annotations

import math
import struct
from ctypes import byref, c_double, c_void_p
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.engine.native import DTYPES, InputArrays, call
from merge_assets.engine.rounding import rounded

FORMATS = {"BF16": (8, -126, 127), "F16": (11, -14, 15), "F32": (24, -126, 127)}
"""Significant bits, smallest and largest exponent of a normal number."""

WORDS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32, "F64": np.uint64}
QUIET = {"BF16": 0x7FC0, "F16": 0x7E00, "F32": 0x7FC00000, "F64": 0x7FF8000000000000}


def nearest(value: float, dtype: str) -> int:
    """The bits that a float64 is to become."""
    if math.isnan(value):
        return QUIET[dtype]
    if dtype == "F64":
        return int.from_bytes(struct.pack("<d", value), "little")
    bits, smallest, largest = FORMATS[dtype]
    size = bits + 8 if dtype != "F16" else 16
    sign = int(math.copysign(1, value) < 0) << (size - 1)
    infinity = ((1 << (size - bits)) - 1) << (bits - 1)
    if math.isinf(value):
        return sign | infinity
    exponent = max(math.frexp(value)[1] - 1, smallest) if value else smallest
    steps = round(Fraction(abs(value)) / Fraction(2) ** (exponent - bits + 1))  # half to even
    # Numbers of one sign are in the order of their bits, and the step from one to the next is one.
    code = ((exponent - smallest) << (bits - 1)) + steps
    assert steps <= 1 << bits and exponent <= 1023
    return sign | (infinity if exponent > largest else min(code, infinity))


def by_c(values: np.ndarray, dtype: str) -> tuple[list[int], int]:
    """As ``combine`` with a factor of one writes them, and how many it says are not finite."""
    out = np.zeros(len(values), WORDS[dtype])
    addresses = (c_void_p * 1)(values.ctypes.data)
    inputs = InputArrays(addresses, ["F64"], None)
    bad = call("combine", byref(inputs), (c_double * 1)(1.0), len(values), c_void_p(out.ctypes.data), DTYPES[dtype])
    return out.tolist(), bad


def by_torch(values: np.ndarray, dtype: str) -> tuple[list[int], int]:
    result, bad = rounded(torch.from_numpy(values), dtype)
    return result.view(torch.uint8).numpy().view(WORDS[dtype]).tolist(), bad


def ties(dtype: str) -> list[float]:
    """Numbers in the middle of two, and their neighbours among float32 and float64, from the smallest to the largest."""
    bits, smallest, largest = FORMATS[dtype]
    found = []
    for exponent in (smallest - bits, smallest - bits + 1, smallest - 3, smallest - 1, smallest, -1, 0, 5, largest):
        for steps in (0, 1, 2, 3, (1 << bits - 1), (1 << bits) - 2, (1 << bits) - 1):
            middle = math.ldexp(2 * steps + 1, exponent - bits)
            around = [middle, math.nextafter(middle, math.inf), math.nextafter(middle, 0)]
            around += [middle * (1 + 2.0**-shift) for shift in (25, 30, 45)]
            around += [middle * (1 - 2.0**-shift) for shift in (25, 30, 45)]
            found += [*around, *(-each for each in around)]
    return found


SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, 1 + 2.0**-8 + 2.0**-30, 65519.999999999, 65520.0, 5e-324, -1e-310]
SPECIAL += [3.4028235677973366e38, 3.4028234e38, 3.39e38, 1.7e308, 2.0**-133, 2.0**-134, -(2.0**-134) * (1 + 2.0**-40)]


@pytest.mark.parametrize("way", [by_c, by_torch])
@pytest.mark.parametrize("dtype", FORMATS)
def test_ties_ends_and_what_is_close_to_them(dtype: str, way) -> None:
    values = np.array(SPECIAL + ties(dtype) + ties("BF16"))
    expected = [nearest(value, dtype) for value in values.tolist()]
    found, bad = way(values, dtype)
    wrong = [(v.hex(), hex(f), hex(e)) for v, f, e in zip(values.tolist(), found, expected, strict=True) if f != e]
    assert not wrong, wrong[:5]
    bits = FORMATS[dtype][0]
    exponents = ((1 << (np.dtype(WORDS[dtype]).itemsize * 8 - bits)) - 1) << (bits - 1)
    assert bad == sum(word & exponents == exponents for word in expected)


def test_the_oracle_knows_the_example_that_two_roundings_get_wrong() -> None:
    value = 1 + 2.0**-8 + 2.0**-30
    assert nearest(value, "BF16") == 0x3F81  # 1.0078125
    assert np.float32(value) == np.float32(1 + 2.0**-8)  # of which 1.0 is the nearest, by the tie


anything = st.one_of(
    st.floats(width=64),
    st.floats(-4, 4, width=64),
    st.floats(-1e-37, 1e-37, width=64),
    st.builds(lambda x, e: x * (1 + math.ldexp(1, e)), st.floats(-8, 8, width=16), st.integers(-52, -8)),
)


@given(st.lists(anything, min_size=1, max_size=600), st.sampled_from([*FORMATS, "F64"]))
def test_every_float64_becomes_its_nearest(numbers: list[float], dtype: str) -> None:
    values = np.array(numbers)
    expected = [nearest(value, dtype) for value in numbers]
    assert by_c(values, dtype)[0] == expected
    assert by_torch(values, dtype)[0] == expected


@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.sampled_from(["BF16", "F16", "F32"]))
def test_a_tile_of_float32_is_rounded_once_too(numbers: list[float], dtype: str) -> None:
    result, _ = rounded(torch.tensor(numbers, dtype=torch.float32), dtype)
    words = result.view(torch.uint8).numpy().view(WORDS[dtype]).tolist()
    assert words == [nearest(value, dtype) for value in numbers]
