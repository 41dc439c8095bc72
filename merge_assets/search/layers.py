"""A gradient over the layers, as the best trials have it."""

from __future__ import annotations

from merge_assets.scales import axis
from merge_assets.search.figure import Area, LeftOut, Mark, Picture, Stroke, line
from merge_assets.search.gradients import Gradient
from merge_assets.search.over_trials import said
from merge_assets.search.standing import Standing, number

BEST = 10
_FEWEST = 3


def layer_profile(standing: Standing, gradient: Gradient) -> Picture | LeftOut:
    """The values over the depth of the best trials, the best of all on top."""
    title = f"{gradient.path} over the layers"
    found = [(one, values) for one in standing.ranked if (values := gradient.of(one.values)) is not None]
    if len(found) < _FEWEST:
        return LeftOut(title, f"{_FEWEST} finished trials with such a list are needed, {len(found)} are there")
    found = found[:BEST]
    area = Area(right=44)
    heights, marks_up = axis([value for _, values in found for value in values])

    def through(values: list[float]) -> str:
        return line((area.x(index / (len(values) - 1)), area.y(heights(value))) for index, value in enumerate(values))

    marks: list[Mark] = [
        Stroke(f"l{7 - place // 2}" if place else "top", through(values), said(one, standing.goals))
        for place, (one, values) in reversed(list(enumerate(found)))
    ]
    text = (
        f"The best {len(found)} trials, the brightest line the best of all; between its entries a list goes in straight "
        "lines over the layers."
    )
    svg = area.draw(
        marks,
        label=title,
        x_title="depth",
        y_title=gradient.path,
        x_ticks=[(0.0, "first layer"), (0.5, "middle"), (1.0, "last layer")],
        y_ticks=[(heights(mark), number(mark)) for mark in marks_up],
    )
    return Picture(f"layers-{standing.gradients.index(gradient)}", title, text, svg)
