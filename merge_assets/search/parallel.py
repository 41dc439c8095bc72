"""All places beside each other: a line for every trial, from value to value to what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_assets.search.axes import PlaceAxis, place_axis, score_axis
from merge_assets.search.figure import Area, LeftOut, Mark, Picture, Stroke, Word, line
from merge_assets.search.over_trials import said, thinned
from merge_assets.search.standing import SHADES, Standing, text_of

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

MOST_LINES = 300
MOST_PLACES = 9
_FEWEST = 5
_BELOW = -0.09
"""Where a place has its lines that a trial does not fill."""

_LONGEST = 20
_LONGEST_MARK = 14


def parallel_coordinates(standing: Standing, goal: int, order: Sequence[str]) -> Picture | LeftOut:
    """A line for every trial, the better the stronger.

    Args:
        standing: the trials.
        goal: of it, which the last axis is of.
        order: of the places, those that matter most first; of many, these are drawn.
    """
    title = "All places beside each other"
    places = [path for path in order if path in standing.varied][:MOST_PLACES]
    if len(standing.done) < _FEWEST:
        return LeftOut(title, f"{_FEWEST} finished trials are needed, {len(standing.done)} are there")
    if len(places) < 2:
        return LeftOut(title, "fewer than two places vary")
    aim = standing.goals[goal]
    area = Area(width=1180, height=400, left=60, right=80, top=52, bottom=54)
    axes: list[PlaceAxis] = [place_axis(standing.space[path]) for path in places]
    heights = score_axis([one.objectives[goal] for one in standing.done], higher=aim.higher)
    across = [area.x(index / len(places)) for index in range(len(places) + 1)]

    def through(one: Trial) -> str:
        at = [
            area.y(axis.at(one.values[path]) if path in one.values else _BELOW)
            for path, axis in zip(places, axes, strict=True)
        ]
        return line(zip(across, [*at, area.y(heights.at(one.objectives[goal]))], strict=True))

    half = MOST_LINES // 2
    ranked = standing.ranked
    drawn = ranked if len(ranked) <= MOST_LINES else [*ranked[:half], *thinned(ranked[half:], MOST_LINES - half)]
    marks: list[Mark] = []
    for shade in range(SHADES):
        of = [one for one in drawn if standing.shade[one.number] == shade]
        if of:
            marks.append(Stroke(f"l{shade}", "".join(map(through, of))))
    marks.append(Stroke("top", through(ranked[0]), said(ranked[0], standing.goals)))
    for x, path, axis in zip(across[:-1], places, axes, strict=True):
        marks.append(Stroke("rule", f"M{x:.1f} {area.y(0):.1f}V{area.y(1):.1f}"))
        marks.append(
            Word("word halo", x, area.top - 24 + 14 * (places.index(path) % 2), text_of(path, _LONGEST), "middle")
        )
        marks += [
            Word("note halo", x + 5, area.y(share) + 4, text_of(text, _LONGEST_MARK)) for share, text in axis.ticks
        ]
        if any(path not in one.values for one in drawn):
            marks.append(Word("note halo", x, area.y(_BELOW) + 14, "not filled", "middle"))
    marks.append(Stroke("rule", f"M{across[-1]:.1f} {area.y(0):.1f}V{area.y(1):.1f}"))
    marks.append(Word("word halo", across[-1], area.top - 24, text_of(aim.title, _LONGEST), "middle"))
    marks += [Word("note halo", across[-1] + 5, area.y(share) + 4, text) for share, text in heights.ticks]
    text = "A line is a trial: the stronger, the better its rank; the bright one is the best." + heights.note
    if len(drawn) < len(standing.done):
        text += f" {len(drawn)} of {len(standing.done)} trials are drawn, the best {half} among them."
    if len(places) < len(standing.varied):
        text += f" {len(standing.varied) - len(places)} places that matter less are left out."
    return Picture("parallel", title, text, area.draw(marks, label=title))
