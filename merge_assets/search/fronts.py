"""Two objectives beside each other, with the trials that no other beats in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_assets.search.axes import score_axis
from merge_assets.search.figure import Area, Dot, LeftOut, Mark, Picture, Stroke, points, stairs
from merge_assets.search.over_trials import said, thinned
from merge_assets.search.standing import Standing

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

_FEWEST = 2
MOST_NAMED = 100
"""Trials of the front that say what they are."""


def pareto_front(standing: Standing, across: int, up: int) -> Picture | LeftOut:
    """Every trial by two goals.

    Args:
        standing: the trials.
        across: number of the goal of the horizontal axis.
        up: of the vertical one.
    """
    aims = standing.goals[across], standing.goals[up]
    title = f"{aims[1].label} against {aims[0].label}"
    if len(standing.done) < _FEWEST:
        return LeftOut(title, f"{_FEWEST} finished trials are needed, {len(standing.done)} are there")
    if all(len({one.objectives[goal] for one in standing.done}) == 1 for goal in (across, up)):
        return LeftOut(title, "all finished trials came to the same")
    area = Area(height=420)
    axes = [
        score_axis([one.objectives[goal] for one in standing.done], higher=standing.goals[goal].higher)
        for goal in (across, up)
    ]

    def at(one: Trial) -> tuple[float, float]:
        return area.x(axes[0].at(one.objectives[across])), area.y(axes[1].at(one.objectives[up]))

    front = sorted(
        (one for one in standing.done if one.number in standing.front), key=lambda one: standing.gain(one, across)
    )
    others = [one for one in standing.done if one.number not in standing.front]
    marks: list[Mark] = []
    if others:
        marks.append(Stroke("points", points(map(at, thinned(others)))))
    if len(standing.goals) == 2:
        # From the best across on: what is worse there reaches as high as it did, until the next one.
        marks.append(Stroke("steps dashed", stairs(sorted(map(at, front), reverse=aims[0].higher))))
    marks += [Dot("best", *at(one), said(one, standing.goals)) for one in thinned(front, MOST_NAMED)]
    text = f"Bright: the {len(front)} trials that no other beats in all objectives." + "".join(
        dict.fromkeys(axis.note for axis in axes)
    )
    svg = area.draw(
        marks,
        label=title,
        x_title=aims[0].title,
        y_title=aims[1].title,
        x_ticks=axes[0].ticks,
        y_ticks=axes[1].ticks,
    )
    return Picture(f"front-{across}-{up}", title, text, svg)
