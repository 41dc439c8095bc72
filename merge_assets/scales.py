"""Where values stand on an axis of a picture, with round numbers to mark, and which of several points no other beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

_MOST_OF_LOGARITHMS = 8
"""Marks of a logarithmic axis, beyond which it has powers of ten alone."""


def axis(
    values: Sequence[float], *, logarithmic: bool = False, margin: float = 0.08
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value is between 0 and 1, and round numbers to mark.

    Args:
        values: at least one; all have a place.
        logarithmic: they are above 0.
        margin: what is left free beyond the lowest and the highest, as a part of what lies between them.
    """
    low, high = min(values), max(values)
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
        room = margin * (high - low) or 0.1
        low, high = low - room, high + room
        powers = range(math.floor(low), math.ceil(high) + 1)
        for factors in ((1, 2, 5), (1,)):
            marks = [m * 10.0**e for e in powers for m in factors if low <= math.log10(m * 10.0**e) <= high]
            if len(marks) <= _MOST_OF_LOGARITHMS:
                break
        kept = marks[:: math.ceil(len(marks) / _MOST_OF_LOGARITHMS) or 1]
        return lambda value: (math.log10(value) - low) / (high - low), kept
    room = margin * (high - low) or (abs(high) * 0.1 or 1.0 if low == high else 0.0)
    low, high = low - room, high + room
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(m * size for m in (1, 2, 5, 10) if (high - low) / (m * size) <= 6)
    ticks = [float(f"{step * i:.12g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return lambda value: (value - low) / (high - low), ticks


def undominated(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which of some points no other one beats: none costs no more by any measure, and less by one.

    Args:
        costs: of each point by every measure, the less the better; finite.
    """
    at = np.asarray(costs, np.float64)
    found = np.zeros(len(at), bool)
    front, count = np.empty_like(at), 0
    # Whoever beats a point comes before it in this order, or is beaten by one that does.
    for index in np.lexsort(at.T[::-1]) if len(at) else ():
        there = front[:count]
        if not ((there <= at[index]).all(axis=1) & (there < at[index]).any(axis=1)).any():
            found[index] = True
            front[count] = at[index]
            count += 1
    return [bool(one) for one in found]
