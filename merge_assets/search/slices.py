"""Scores by the value of one place, with a local mean and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge_assets.search.axes import ScoreAxis, place_axis, score_axis
from merge_assets.search.figure import Area, Dot, LeftOut, Mark, Picture, Stroke, band, line, points
from merge_assets.search.over_trials import said, thinned
from merge_assets.search.standing import Standing, key_of, text_of

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

FEWEST = 10
_SHARE = 5
"""Of all trials, the nearest fifth are taken together."""

_GRID = 41
_LONGEST = 60


@dataclass(frozen=True)
class LocalMean:
    """The mean of trials around a value.

    Attributes:
        at: how far along the axis it is, 0 to 1.
        mean: of their scores.
        error: standard error of that mean.
        count: of trials.
    """

    at: float
    mean: float
    error: float
    count: int


def local_means(at: Sequence[float], scores: Sequence[float], count: int) -> list[LocalMean]:
    """At even steps between the ends of what was tried, the mean of the nearest trials.

    Args:
        at: where each trial is, 0 to 1.
        scores: of each.
        count: how many are taken together, from 2 to all; of those that are as near, the first ones.
    """
    places, values = np.asarray(at, np.float64), np.asarray(scores, np.float64)
    found = []
    for middle in np.linspace(places.min(), places.max(), _GRID):
        nearest = values[np.argsort(np.abs(places - middle), kind="stable")[:count]]
        found.append(
            LocalMean(float(middle), float(nearest.mean()), float(nearest.std(ddof=1) / math.sqrt(count)), count)
        )
    return found


def means_of_values(at: Sequence[float], scores: Sequence[float]) -> list[LocalMean]:
    """The mean of the trials of each value that at least two have, in the order of the axis."""
    groups: dict[float, list[float]] = {}
    for place, score in zip(at, scores, strict=True):
        groups.setdefault(place, []).append(score)
    return [
        LocalMean(place, float(np.mean(of)), float(np.std(of, ddof=1) / math.sqrt(len(of))), len(of))
        for place, of in sorted(groups.items())
        if len(of) > 1
    ]


def slice_of(standing: Standing, goal: int, path: str) -> Picture | LeftOut:
    """The score of every trial by its value in a place."""
    aim = standing.goals[goal]
    title = f"{aim.label} by {path}"
    found = [one for one in standing.done if path in one.values]
    if len(found) < FEWEST:
        return LeftOut(title, f"{FEWEST} finished trials with a value there are needed, {len(found)} are there")
    if len({key_of(one.values[path]) for one in found}) < 2:
        return LeftOut(title, f"all finished trials have {text_of(found[0].values[path])}")
    area = Area()
    heights = score_axis([one.objectives[goal] for one in found], higher=aim.higher)
    along = place_axis(standing.space[path])
    at = [along.at(one.values[path]) for one in found]
    scores = [heights.limited(one.objectives[goal]) for one in found]
    shown = thinned(list(zip(found, at, strict=True)))
    beside = [_beside(one, along.kinds) for one, _ in shown]
    marks: list[Mark] = [
        Stroke(
            "points",
            points(
                (area.x(place + aside), area.y(heights.at(one.objectives[goal])))
                for (one, place), aside in zip(shown, beside, strict=True)
            ),
        )
    ]
    if along.kinds:
        means = means_of_values(at, scores)
        marks += _of_values(area, heights, means, along.kinds)
        text = "Bars: the mean of the trials of each value, and two standard errors of it to either side."
    else:
        count = max(FEWEST // 2, math.ceil(len(found) / _SHARE))
        means = local_means(at, scores, count)
        marks = [*_of_numbers(area, heights, means), *marks]
        text = f"Line: the mean of the nearest {count} trials; band: two standard errors of it to either side."
    best = standing.first(found, goal)
    marks.append(
        Dot(
            "best",
            area.x(along.at(best.values[path])),
            area.y(heights.at(best.objectives[goal])),
            said(best, standing.goals),
        )
    )
    svg = area.draw(
        marks,
        label=title,
        x_title=path if len(path) <= _LONGEST else f"…{path[1 - _LONGEST :]}",
        y_title=aim.title,
        x_ticks=along.ticks,
        y_ticks=heights.ticks,
    )
    number = list(standing.space).index(path)
    return Picture(f"slice-{goal}-{number}", title, text + heights.note, svg)


def _beside(trial: Trial, kinds: int) -> float:
    """How far beside its value a point is drawn, so that those of one value do not hide each other."""
    return (trial.number * 0.618034 % 1 - 0.5) * 0.5 / kinds if kinds else 0.0


def _height(area: Area, heights: ScoreAxis, score: float) -> float:
    """Pixels from the top, within the picture."""
    return area.y(min(max(heights.at(score), 0.0), 1.0))


def _of_numbers(area: Area, heights: ScoreAxis, means: Sequence[LocalMean]) -> list[Mark]:
    def edge(errors: float) -> list[tuple[float, float]]:
        return [(area.x(one.at), _height(area, heights, one.mean + errors * one.error)) for one in means]

    return [Stroke("band", band(edge(-2), edge(2))), Stroke("line", line(edge(0)))]


def _of_values(area: Area, heights: ScoreAxis, means: Sequence[LocalMean], kinds: int) -> list[Mark]:
    marks: list[Mark] = []
    half = 0.16 / kinds
    for one in means:
        low, high = (_height(area, heights, one.mean + errors * one.error) for errors in (-2, 2))
        x, left, right = area.x(one.at), area.x(one.at - half), area.x(one.at + half)
        cap = f"M{left:.1f} {low:.1f}H{right:.1f}M{left:.1f} {high:.1f}H{right:.1f}"
        said_of = f"{one.mean:.5g} ± {2 * one.error:.2g}, of {one.count} trials"
        marks += [
            Stroke("line", f"{cap}M{x:.1f} {low:.1f}V{high:.1f}"),
            Dot("mean", x, area.y(heights.at(one.mean)), said_of),
        ]
    return marks
