"""Axes of places and of scores: where a value stands, and what is marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.recipe.schema_search import Choices, Dimension
from merge_assets.scales import axis
from merge_assets.search.figure import Tick
from merge_assets.search.standing import key_of, number, text_of

_MARGIN = 0.03
_MOST_TICKS = 10
_WORST = 0.1
"""The part of all trials that must not squeeze the others."""

_FAR = 3.0
"""How much farther from the best than all but the worst tenth a score may lie before it is put to the edge."""


@dataclass(frozen=True)
class PlaceAxis:
    """The values of a place.

    Attributes:
        at: how far along a value is, 0 to 1.
        ticks: to be marked.
        kinds: how many values are tried, where they are no numbers between two ends; else 0.
    """

    at: Callable[[Any], float]
    ticks: list[Tick]
    kinds: int


@dataclass(frozen=True)
class ScoreAxis:
    """Scores.

    Attributes:
        at: how high a score is, 0 to 1; what is far worse than most is at the edge.
        limited: a score, or that of the edge.
        ticks: to be marked.
        beyond: how many scores are at the edge.
        is_beyond: whether a score is.
    """

    at: Callable[[float], float]
    limited: Callable[[float], float]
    ticks: list[Tick]
    beyond: int
    is_beyond: Callable[[float], bool]

    @property
    def note(self) -> str:
        """What is to be said of scores at the edge."""
        return (
            f" {self.beyond} that are far worse are at the edge, and count as if they were there."
            if self.beyond
            else ""
        )


def place_axis(dimension: Dimension) -> PlaceAxis:
    """The axis of a place: from end to end, or one mark for every value."""
    if isinstance(dimension, Choices):
        keys = {key_of(value): index for index, value in enumerate(dimension.choices)}
        count = len(keys)
        shares = {key: (index + 0.5) / count for key, index in keys.items()}
        step = math.ceil(count / _MOST_TICKS)
        longest = max(6, 64 // min(count, _MOST_TICKS))
        ticks = [
            (shares[key_of(value)], text_of(value, longest))
            for index, value in enumerate(dimension.choices)
            if index % step == 0
        ]
        return PlaceAxis(lambda value: shares[key_of(value)], ticks, count)
    at, marks = axis([float(dimension.low), float(dimension.high)], logarithmic=dimension.log, margin=_MARGIN)
    kept = [mark for mark in marks if not dimension.whole or float(mark).is_integer()]
    return PlaceAxis(at, [(at(mark), number(mark)) for mark in kept], 0)


def score_axis(values: Sequence[float], *, higher: bool) -> ScoreAxis:
    """The axis of scores, the best of which are told apart however bad the worst are.

    Args:
        values: at least one, finite.
        higher: whether more is better.
    """
    sign = 1.0 if higher else -1.0
    gains = sorted(sign * value for value in values)
    best, common = gains[-1], gains[int(_WORST * len(gains))]
    least = gains[0]
    if best > common and best - least > _FAR * (best - common):
        least = best - 1.5 * (best - common)
    beyond = sum(gain < least for gain in gains)
    place, marks = axis([sign * best, sign * least])

    def limited(value: float) -> float:
        return sign * max(sign * value, least)

    return ScoreAxis(
        at=lambda value: place(limited(value)),
        limited=limited,
        ticks=[(place(mark), number(mark)) for mark in marks],
        beyond=beyond,
        is_beyond=lambda value: sign * value < least,
    )
