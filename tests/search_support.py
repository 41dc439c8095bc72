"""Searches made up by hand, and what their pictures say, read from the SVG by the marks of its axes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from merge_assets.recipe.schema_search import Choices, Dimension, Span
from merge_assets.search.figure import LeftOut, Picture
from merge_assets.search.gradients import Gradient
from merge_assets.search.standing import Goal, Standing
from merge_assets.search.trials import Trial

SVG = "{http://www.w3.org/2000/svg}"
HIGHER, LOWER = Goal("demo", True), Goal("perplexity", False)
X, Y, METHOD = "parameters.x", "parameters.y", "merge_method"
SPACE: dict[str, Dimension] = {
    X: Span(low=0, high=1),
    Y: Span(low=0.01, high=1, log=True),
    METHOD: Choices(choices=("linear", "ties")),
}


def trial(number: int, values: dict[str, Any], *came: float, **changes: Any) -> Trial:
    made = {
        "state": "done",
        "reason": "",
        "told": {"objectives": dict(zip(("demo", "perplexity"), came, strict=False))},
        "began": datetime(2026, 1, 1, tzinfo=UTC),
        "ended": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Trial(number=number, values=values, objectives=came, **{**made, **changes})


def scored(*scores: float, goal: Goal = HIGHER) -> Standing:
    """Trials that differ in nothing but what they came to."""
    return Standing([trial(n, {X: 0.5}, score) for n, score in enumerate(scores)], {X: SPACE[X]}, [goal])


def drawn_at_random(count: int, goals: Sequence[Goal] = (HIGHER,), seed: int = 0) -> Standing:
    """Trials of which the score is 1 − (x − 0.3)², less a tenth for ``ties``; every twentieth failed."""
    draw = random.Random(seed)
    trials = []
    for number in range(count):
        values = {X: draw.random(), Y: 10 ** (2 * draw.random() - 2), METHOD: draw.choice(["linear", "ties"])}
        score = 1 - (values[X] - 0.3) ** 2 - (0.1 if values[METHOD] == "ties" else 0.0)
        if number % 20 == 19:
            reason = f"search-trial-{number}: no room"
            trials.append(trial(number, values, state="failed", reason=reason, told={}))
        else:
            trials.append(trial(number, values, *(score, 10 + values[X])[: len(goals)]))
    return Standing(trials, SPACE, goals)


def shown(picture: Picture | LeftOut) -> ElementTree.Element:
    """The SVG of a picture that is drawn."""
    assert isinstance(picture, Picture), picture
    return ElementTree.fromstring(picture.svg)


def of_kind(svg: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    """The marks of a kind."""
    return [one for one in svg.iter() if kind in one.attrib.get("class", "").split()]


def title_of(mark: ElementTree.Element) -> str:
    title = mark.find(f"{SVG}title")
    return "" if title is None else title.text or ""


def points_of(path: str) -> list[tuple[float, float]]:
    """The points that a path of M, L, H and V goes through."""
    found: list[tuple[float, float]] = []
    x = y = 0.0
    for letter, numbers in re.findall(r"([MLHV])([-\d. ]+)", path):
        given = [float(one) for one in numbers.split()]
        if letter in "ML":
            x, y = given
        elif letter == "H":
            x = given[0]
        else:
            y = given[0]
        found.append((x, y))
    return found


class Axes:
    """What pixels of a picture mean, told from the marks of its axes, which are of numbers and even."""

    def __init__(self, svg: ElementTree.Element) -> None:
        ticks = [one for one in of_kind(svg, "tick") if re.fullmatch(r"-?[\d.]+(e-?\d+)?", one.text or "")]
        self._x = self._ends([(float(t.attrib["x"]), t) for t in ticks if t.attrib["text-anchor"] == "middle"])
        self._y = self._ends([(float(t.attrib["y"]) - 4, t) for t in ticks if t.attrib["text-anchor"] == "end"])

    @staticmethod
    def _ends(ticks: list[tuple[float, ElementTree.Element]]) -> tuple[float, float, float, float]:
        (first, one), (last, other) = ticks[0], ticks[-1]
        return first, float(one.text or ""), last, float(other.text or "")

    def x(self, pixel: float) -> float:
        return self._value(pixel, self._x)

    def y(self, pixel: float) -> float:
        return self._value(pixel, self._y)

    @staticmethod
    def _value(pixel: float, ends: tuple[float, float, float, float]) -> float:
        first, low, last, high = ends
        return low + (pixel - first) / (last - first) * (high - low)


def gradient(*entries: str | float) -> Gradient:
    return Gradient("parameters.t", entries)
