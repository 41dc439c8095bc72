"""How far two tensors are apart, in float64, block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NUMBERS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}

EPSILON = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24, "F64": 2.0**-53}
"""Largest relative error of one rounding to a dtype, by safetensors code."""


@dataclass(frozen=True)
class Distance:
    """Sums over elements of two tensors a and b; those of several blocks or tensors add up.

    Attributes:
        count: elements that were compared.
        unequal: those of them that differ.
        largest: max |a - b|; NaN where one of both is NaN alone.
        squares: sum of (a - b)².
        squares_b: sum of b².
        squares_a: sum of a².
        product: sum of a·b.
    """

    count: int = 0
    unequal: int = 0
    largest: float = 0.0
    squares: float = 0.0
    squares_a: float = 0.0
    squares_b: float = 0.0
    product: float = 0.0

    def __add__(self, other: Distance) -> Distance:
        return Distance(
            self.count + other.count,
            self.unequal + other.unequal,
            float(np.maximum(self.largest, other.largest)),
            self.squares + other.squares,
            self.squares_a + other.squares_a,
            self.squares_b + other.squares_b,
            self.product + other.product,
        )

    @property
    def relative(self) -> float:
        """‖a - b‖ / ‖b‖; infinite where b is zero and a is not."""
        if self.squares == 0:
            return 0.0
        return math.sqrt(self.squares / self.squares_b) if self.squares_b else math.inf

    @property
    def cosine(self) -> float:
        """a·b / (‖a‖ ‖b‖); 1 where both are equal, NaN where one is zero."""
        if self.squares == 0:
            return 1.0
        size = math.sqrt(self.squares_a) * math.sqrt(self.squares_b)
        return self.product / size if size else math.nan


def has_numbers(dtype: str) -> bool:
    """Whether a distance is defined for a safetensors dtype."""
    return dtype in _NUMBERS


def distance(a: bytes, dtype_a: str, b: bytes, dtype_b: str) -> Distance:
    """The distance of two runs of equally many elements.

    Args:
        a: their bytes.
        dtype_a: safetensors code, one that :func:`has_numbers`.
        b: as ``a``; so ``dtype_b``.
    """
    x, y = _doubles(a, dtype_a), _doubles(b, dtype_b)
    unequal = (x != y) & ~(np.isnan(x) & np.isnan(y))
    count = int(np.count_nonzero(unequal))
    if not count:
        same = float(np.dot(x, x)) if np.isfinite(x).all() else 0.0
        return Distance(x.size, 0, 0.0, 0.0, same, same, same)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(unequal, x - y, 0.0)
        return Distance(
            x.size,
            count,
            float(np.abs(apart).max()),
            float(np.dot(apart, apart)),
            float(np.dot(x, x)),
            float(np.dot(y, y)),
            float(np.dot(x, y)),
        )


def _doubles(raw: bytes, dtype: str) -> npt.NDArray[np.float64]:
    values = np.frombuffer(raw, dtype=_NUMBERS[dtype])
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)
