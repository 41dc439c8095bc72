"""What a score costs: models by a price and a score, with those that no other beats in both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from merge_assets.evaluation.leaderboard import Column, Leaderboard, Row, format_count
from merge_assets.evaluation.scores import format_value
from merge_assets.markup import render
from merge_assets.scales import axis, undominated

WIDTH, HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 28, 26, 52
_CHARACTER, _LONGEST_NAME = 6.8, 40
"""Pixels of a character of a name, and characters that are written of it."""
_Box = tuple[float, float, float, float]
"""Pixels: left, right, top, bottom."""
_ANSWER_LENGTHS = ("tokens_per_answer",)
"""Metrics that say how long answers are."""


@dataclass(frozen=True)
class Point:
    """One model in a chart.

    Attributes:
        at: pixels from the left and from the top.
        is_front: whether no other model is as good for less, or better for as much.
        label: whether its name starts or ends at the point, and pixels from the top; None without one.
    """

    model: str
    kind: str
    price: str
    score: str
    at: tuple[float, float]
    is_front: bool
    label: tuple[str, float] | None


@dataclass(frozen=True)
class Chart:
    """A chart as SVG.

    Attributes:
        name: short, for files: ``parameters``, ``seconds``, ``tokens``.
        title: of the axis.
    """

    name: str
    title: str
    svg: str


def pareto_charts(board: Leaderboard) -> list[Chart]:
    """The ranking column by parameters, by seconds of evaluation and by tokens per answer, where models differ."""
    column = board.rank_column
    if column is None:
        return []
    lengths = next((one for one in board.columns if (one.metric or "").partition(",")[0] in _ANSWER_LENGTHS), None)
    prices: list[tuple[str, str, Callable[[Row], float | None], Callable[[float], str]]] = [
        ("parameters", "parameters", lambda row: row.entry.parameters, lambda value: format_count(round(value))),
        ("seconds", f"seconds of {column.suite}", lambda row: _seconds(row, column.suite), _seconds_text),
    ]
    if lengths is not None:
        tokens: Column = lengths
        prices.append(("tokens", "tokens per answer", lambda row: _value(row, tokens), lambda value: f"{value:.3g}"))
    made = (_chart(board, column, *price) for price in prices)
    return [chart for chart in made if chart is not None]


def _seconds(row: Row, suite: str) -> float | None:
    found = [one for scores in row.entry.scores if scores.suite == suite for one in scores.tasks]
    # Several metrics of one task have one time.
    return sum({one.result: one.seconds for one in found}.values()) or None


def _seconds_text(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _value(row: Row, column: Column) -> float | None:
    cell = row.cells.get(column)
    return None if cell is None else cell.value


def _chart(
    board: Leaderboard,
    column: Column,
    name: str,
    title: str,
    price_of: Callable[[Row], float | None],
    price_text: Callable[[float], str],
) -> Chart | None:
    found = [
        (row, price, row.cells[column].value)
        for row in board.rows
        if column in row.cells and not row.cells[column].part and (price := price_of(row))
    ]
    prices = [price for _, price, _ in found]
    if len(found) < 2 or math.isclose(min(prices), max(prices)):
        return None
    sign = 1.0 if column.higher_is_better else -1.0
    is_front = undominated([(price, -sign * score) for _, price, score in found])
    xs, x_ticks = axis(prices, logarithmic=max(prices) > 3 * min(prices))
    ys, y_ticks = axis([score for *_, score in found])
    places = [
        (_LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (HEIGHT - _TOP - _BOTTOM))
        for x, y in zip(map(xs, prices), (ys(score) for *_, score in found), strict=True)
    ]
    labels = _labels(places, [row.entry.model for row, *_ in found], is_front)
    points = [
        Point(
            model=row.entry.model,
            kind=row.entry.kind,
            price=price_text(price),
            score=format_value(score, column.is_fraction),
            at=place,
            is_front=best,
            label=label,
        )
        for (row, price, score), place, best, label in zip(found, places, is_front, labels, strict=True)
    ]
    of = f"{column.suite} average" if column.task is None else f"{column.task} {column.metric}"
    svg = render(
        "merge_assets.evaluation",
        "pareto.html.j2",
        width=WIDTH,
        height=HEIGHT,
        edges=(_LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM),
        x_title=title,
        y_title=f"{of}{', %' if column.is_fraction else ''}{'' if column.higher_is_better else ' ↓'}",
        x_ticks=[(_LEFT + xs(tick) * (WIDTH - _LEFT - _RIGHT), price_text(tick)) for tick in x_ticks],
        y_ticks=[
            (HEIGHT - _BOTTOM - ys(tick) * (HEIGHT - _TOP - _BOTTOM), f"{100 * tick if column.is_fraction else tick:g}")
            for tick in y_ticks
        ],
        points=points,
        line=_steps(sorted(point.at for point in points if point.is_front)),
    )
    return Chart(name, title, svg)


def _labels(
    places: Sequence[tuple[float, float]], names: Sequence[str], is_front: Sequence[bool]
) -> list[tuple[str, float] | None]:
    """On which side of its point and how high each name is, over no other name or point; None where there is no room.

    Those of the front come first.
    """
    taken = [(x - 6, x + 6, y - 6, y + 6) for x, y in places]
    found: list[tuple[str, float] | None] = [None] * len(places)
    for index in sorted(range(len(places)), key=lambda i: (not is_front[i], places[i])):
        x, y = places[index]
        width = _CHARACTER * min(len(names[index]), _LONGEST_NAME)
        for anchor, height in itertools.product(("start", "end"), (y + 4, y - 8, y + 16)):
            left = x + 9 if anchor == "start" else x - 9 - width
            box = (left, left + width, height - 10, height + 3)
            is_inside = left >= _LEFT and left + width <= WIDTH
            if is_inside and not any(_overlap(box, other) for other in taken):
                found[index] = anchor, height
                taken.append(box)
                break
    return found


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """The line of the best score that can be had up to each price, as an SVG path."""
    if not points:
        return ""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    parts += [f"H{x:.1f}V{y:.1f}" for x, y in points[1:]]
    return "".join(parts)
