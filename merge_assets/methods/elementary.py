"""Exponential, logarithm, sine and arc cosine out of operations that IEEE 754 rounds correctly: + − × ÷ √.

Those of the C library, of torch on the CPU and of a GPU differ from each other in the last bits, from processor to processor
and from version to version. These are the same everywhere, and right to some units in the last place. They take a float or a
float64 tensor, whose operations torch does not fuse.

A root is among what IEEE 754 rounds correctly, but torch on the CPU takes it from Intel's library, which does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from merge_assets.methods.expression import Tensor

PI = math.pi
_PI_REST = 1.2246467991473532e-16
"""π less :data:`PI`."""

_LN2, _LN2_REST = 0.6931471803691238, 1.9082149292705877e-10
"""ln 2 in two parts; the first has so many zeros at its end that its product with an exponent is exact."""

_SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(12)]
_ARC_TANGENT = [(-1) ** k / (2 * k + 1) for k in range(12)]
_EXPONENTIAL = [1 / math.factorial(k) for k in range(14)]


def sine(x: Any) -> Any:
    """sin x, for |x| up to some thousand."""
    turns = _floor(x * (1 / PI) + 0.5)  # a factor, since a GPU turns a division by a number into one
    rest = (x - turns * PI) - turns * _PI_REST
    sign = 1.0 - 2.0 * (turns - 2.0 * _floor(turns * 0.5))
    return sign * (rest * polynomial(_SINE, rest * rest))


def arc_cosine(x: Any) -> Any:
    """arccos x, 0 to π, for −1 ≤ x ≤ 1."""
    c = abs(x)
    # Half the angle has this tangent; halved twice more, its series is short.
    tangent = root((1.0 - c) / (1.0 + c))
    for _ in range(2):
        tangent = tangent / (1.0 + root(1.0 + tangent * tangent))
    angle = 8.0 * (tangent * polynomial(_ARC_TANGENT, tangent * tangent))
    return _choose(x < 0, PI - angle, angle)


def exponential(x: Tensor, integers: Any) -> Tensor:
    """eˣ of a float64 tensor, for x from −700 (what is less counts as that, but −∞) to 700.

    Args:
        x: the exponents.
        integers: the dtype ``int64`` of the tensor's library.
    """
    nothing = x == -math.inf
    x = x.clamp(min=-700.0)
    turns = (x * (1 / _LN2)).round_()
    rest = (x - turns * _LN2).sub_(turns * _LN2_REST)
    power = ((turns.nan_to_num_().to(integers) + 1023) << 52).view(x.dtype)
    result: Tensor = polynomial(_EXPONENTIAL, rest).mul_(power)
    return result.masked_fill_(nothing, 0.0)


def logarithm(x: Tensor, integers: Any) -> Tensor:
    """ln x of a float64 tensor of numbers from 1 to 2⁶⁰; ``integers`` as of :func:`exponential`."""
    exponent = (x.view(integers) >> 52) - 1023
    result = exponent.to(x.dtype).mul_(_LN2)
    for _ in range(3):  # Halley's steps: each has three times the digits of the one before
        power = exponential(result, integers)
        result = result + (x - power).mul_(2.0).div_(x + power)
    return result


def polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """Σ c_k xᵏ by Horner's rule."""
    result = x * coefficients[-1]
    for coefficient in reversed(coefficients[1:-1]):
        result += coefficient
        result *= x
    result += coefficients[0]
    return result


def _floor(x: Any) -> Any:
    return float(math.floor(x)) if isinstance(x, float) else x.floor()


def root(x: Any) -> Any:
    """√x, correctly rounded."""
    if isinstance(x, float):
        return math.sqrt(x)
    if x.device.type != "cpu":
        return x.sqrt()
    import numpy as np

    result = x.clone()
    np.sqrt(result.numpy(), out=result.numpy())
    return result


def _choose(condition: Any, one: Any, other: Any) -> Any:
    return (one if condition else other) if isinstance(one, float) else one.where(condition, other)
