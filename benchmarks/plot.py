"""The picture of the benchmark page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot

_OURS, _THEIRS, _FLOOR = "#2563a8", "#c9ced6", "#222222"
_BAR = 0.38


def draw(works: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Wall time and peak memory of both programs as bars, one pair per work.

    Args:
        works: the record of each work, by name.
        file: PNG to write.
    """
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 0.9 + 0.47 * len(works)), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    places = range(len(works))
    ours = [median(run["wall"] for run in found["ours"]) for found in works.values()]
    theirs = [_median(found["mergekit"], "wall") for found in works.values()]
    left.barh([place - _BAR / 2 for place in places], ours, _BAR, color=_OURS, label="merge-assets")
    left.barh([place + _BAR / 2 for place in places], theirs, _BAR, color=_THEIRS, label="mergekit 0.1.5")
    floors = [median(found["floor"]) for found in works.values()]
    left.scatter(floors, [place - _BAR / 2 for place in places], marker="|", s=110, color=_FLOOR, label="plain copy")
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if other:
            left.text(other * 1.06, place + _BAR / 2, f"{other / mine:.0f}×", va="center", fontsize=9, color="#555555")
        left.text(mine * 1.06, place - _BAR / 2, f"{mine:.1f} s", va="center", fontsize=9, color=_OURS)
    left.set_xscale("log")
    left.set_xlim(0.5 * min(*ours, *floors), 1.8 * max(*ours, *theirs))
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    left.set_title("wall time of the whole process", fontsize=11)
    left.set_yticks(places, labels=list(works))
    left.set_ylim(len(works) - 0.4, -0.6)
    right.barh(
        [place - _BAR / 2 for place in places],
        [max(run["memory"] for run in found["ours"]) / 1e9 for found in works.values()],
        _BAR,
        color=_OURS,
    )
    right.barh(
        [place + _BAR / 2 for place in places],
        [max((run["memory"] for run in found["mergekit"]), default=0) / 1e9 for found in works.values()],
        _BAR,
        color=_THEIRS,
    )
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g} GB")
    right.set_title("peak resident memory", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def _median(runs: list[Mapping[str, Any]], field: str) -> float:
    return median(run[field] for run in runs) if runs else 0.0
