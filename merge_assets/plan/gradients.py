"""Values along the depth of a model as people read them: one value, a slope, or its shape."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16
"""Bars at most."""
_LISTED = 4
"""Values that are listed; of more the shape is drawn."""


def along_the_depth(values: Sequence[float]) -> str:
    """Values from the first layer to the last.

    ``0.5`` where they are one, ``0…0.7`` where they only rise or fall, ``0, 0.5, 0`` where they are few, else bars with the
    lowest and the highest: ``▁▄▂█▁ 0 to 0.7``.

    Args:
        values: one or more; neighbours that are equal count once where values are listed.
    """
    steps = [value for value, _ in groupby(values)]
    if len(steps) == 1:
        return f"{steps[0]:g}"
    if all(a < b for a, b in pairwise(steps)) or all(a > b for a, b in pairwise(steps)):
        return f"{steps[0]:.4g}…{steps[-1]:.4g}"
    if len(steps) <= _LISTED:
        return ", ".join(f"{value:.4g}" for value in steps)
    low, high = min(values), max(values)
    bars = "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in _fewer(values))
    return f"{bars} {low:.4g} to {high:.4g}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in words, those in a row as a range: ``3–5, 8``."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{one[0]}" if len(one) == 1 else f"{one[0]}–{one[-1]}" for one in found)


def _fewer(values: Sequence[float]) -> list[float]:
    """At most as many values as there are bars; of each run of layers the one that is furthest from the middle of all."""
    if len(values) <= _WIDTH:
        return list(values)
    middle = (min(values) + max(values)) / 2
    edges = [len(values) * place // _WIDTH for place in range(_WIDTH + 1)]
    return [max(values[begin:end], key=lambda value: abs(value - middle)) for begin, end in pairwise(edges)]
