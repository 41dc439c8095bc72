"""Mean scores over the values of two places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from merge_assets.recipe.schema_search import Choices, Dimension
from merge_assets.search.axes import place_axis, score_axis
from merge_assets.search.figure import Area, Box, LeftOut, Mark, Picture, Stroke
from merge_assets.search.standing import SHADES, Standing, number

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

FEWEST = 20
_CELLS = 12
"""Cells of an axis of numbers, at most; so many that a cell has several trials where they are spread evenly."""

_PER_CELL = 2


def heat_map(standing: Standing, goal: int, across: str, up: str) -> Picture | LeftOut:
    """A cell for values of two places that are near each other: the mean of its trials.

    Args:
        standing: the trials.
        goal: of it.
        across: place of the horizontal axis.
        up: place of the vertical one.
    """
    aim = standing.goals[goal]
    title = f"{aim.label} by {across} and {up}"
    found = [one for one in standing.done if across in one.values and up in one.values]
    if len(found) < FEWEST:
        return LeftOut(title, f"{FEWEST} finished trials with a value in both are needed, {len(found)} are there")
    area = Area(height=420)
    axes = {path: place_axis(standing.space[path]) for path in (across, up)}
    cells = {path: _cells(standing.space[path], len(found)) for path in (across, up)}
    groups: dict[tuple[int, int], list[Trial]] = {}
    for one in found:
        place = tuple(min(int(axes[path].at(one.values[path]) * cells[path]), cells[path] - 1) for path in (across, up))
        groups.setdefault((place[0], place[1]), []).append(one)
    heights = score_axis([one.objectives[goal] for one in found], higher=aim.higher)
    means = {at: math.fsum(heights.limited(one.objectives[goal]) for one in of) / len(of) for at, of in groups.items()}
    low, high = min(means.values()), max(means.values())
    wide, tall = (area.x(1) - area.x(0)) / cells[across], (area.y(0) - area.y(1)) / cells[up]
    marks: list[Mark] = []
    for (column, row), mean in sorted(means.items()):
        share = (mean - low) / (high - low) if high > low else 0.0
        shade = min(int(SHADES * (share if aim.higher else 1 - share)), SHADES - 1)
        said = f"{number(mean)}, the mean of {len(groups[column, row])}"
        marks.append(
            Box(
                f"s{shade}",
                area.x(column / cells[across]) + 0.5,
                area.y((row + 1) / cells[up]) + 0.5,
                wide - 1,
                tall - 1,
                said,
            )
        )
    best = standing.first(found, goal)
    x, y = area.x(axes[across].at(best.values[across])), area.y(axes[up].at(best.values[up]))
    marks.append(
        Stroke("ring", f"M{x - 6:.1f} {y:.1f}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0", f"trial {best.number}, the best")
    )
    text = (
        f"Each cell is the mean of the trials in it, from {number(low if aim.higher else high)} (pale) to "
        f"{number(high if aim.higher else low)} (strong); empty: none was tried there. The ring is the best trial."
    )
    svg = area.draw(marks, label=title, x_title=across, y_title=up, x_ticks=axes[across].ticks, y_ticks=axes[up].ticks)
    return Picture(f"heat-{goal}", title, text + heights.note, svg)


def _cells(dimension: Dimension, trials: int) -> int:
    if isinstance(dimension, Choices):
        return len(dimension.choices)
    return max(4, min(_CELLS, int(math.sqrt(trials / _PER_CELL))))
