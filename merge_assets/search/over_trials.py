"""Scores over trials, with the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from merge_assets.scales import axis
from merge_assets.search.axes import score_axis
from merge_assets.search.figure import Area, Dot, LeftOut, Mark, Picture, Stroke, points, stairs
from merge_assets.search.standing import Goal, Standing, number, text_of

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

_T = TypeVar("_T")

MOST_POINTS = 1000
"""Trials that are drawn as points of one picture; of more, evenly many are left out."""

_FEWEST = 2
_MOST_NAMED = 40
"""Improvements that say what they are."""


def over_trials(standing: Standing, goal: int) -> Picture | LeftOut:
    """The score of every trial, and the best of all up to it."""
    aim = standing.goals[goal]
    title = f"{aim.label} over trials"
    if len(standing.done) < _FEWEST:
        return LeftOut(title, f"{_FEWEST} finished trials are needed, {len(standing.done)} are there")
    area = Area()
    heights = score_axis([one.objectives[goal] for one in standing.done], higher=aim.higher)
    last = max(1, standing.trials[-1].number)
    along, marks = axis([0.0, float(last)], margin=0.015)

    def at(trial: Trial) -> tuple[float, float]:
        return area.x(along(trial.number)), area.y(heights.at(trial.objectives[goal]))

    better = improvements(standing, goal)
    best = {one.number for one in better}
    others = [one for one in standing.done if one.number not in best]
    near = [one for one in others if not heights.is_beyond(one.objectives[goal])]
    far = [one for one in others if heights.is_beyond(one.objectives[goal])]
    failed = [area.x(along(one.number)) for one in standing.trials if one.state == "failed"]
    drawn: list[Mark] = [
        Stroke("points", points(map(at, thinned(near)))),
        Stroke("points edge", points(map(at, thinned(far)))),
        Stroke("crosses", "".join(f"M{x - 3:.1f} {area.y(0) - 3:.1f}l6 6m0 -6l-6 6" for x in thinned(failed))),
        Stroke("steps", stairs([at(one) for one in better], area.x(along(last)))),
        *(Dot("best", *at(one), said(one, standing.goals)) for one in better[-_MOST_NAMED:]),
    ]
    text = "Each point is a trial; the line is the best so far, and says where it improved." + heights.note
    text += " Crosses: trials that failed." if failed else ""
    if any(one.state == "given up" for one in standing.trials):
        text += " Trials that were given up were not asked all documents, and have no point."
    svg = area.draw(
        [mark for mark in drawn if not isinstance(mark, Stroke) or mark.d],
        label=title,
        x_title="trial",
        y_title=aim.title,
        x_ticks=[(along(mark), number(mark)) for mark in marks if mark.is_integer() and mark >= 0],
        y_ticks=heights.ticks,
    )
    return Picture(f"trials-{goal}", title, text, svg)


def improvements(standing: Standing, goal: int = 0) -> list[Trial]:
    """The trials that came to more than all before them."""
    found: list[Trial] = []
    for one in standing.done:
        if not found or standing.gain(one, goal) > standing.gain(found[-1], goal):
            found.append(one)
    return found


def said(trial: Trial, goals: Sequence[Goal]) -> str:
    """A trial in some words."""
    came = ", ".join(f"{goal.label} {number(value)}" for goal, value in zip(goals, trial.objectives, strict=True))
    return "\n".join([f"trial {trial.number}: {came}", *(f"{k}: {text_of(v)}" for k, v in trial.values.items())])


def thinned(sequence: Sequence[_T], most: int = MOST_POINTS) -> list[_T]:
    """At most so many, evenly chosen."""
    count = len(sequence)
    return list(sequence) if count <= most else [sequence[index * count // most] for index in range(most)]
