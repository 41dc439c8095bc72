"""The heat map of an analysis: SNR and margin of every module in every layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from merge_assets.analysis.layers import Row
from merge_assets.analysis.picture import FAINT, INFINITE, INK, REMOVED, by_module, new_figure, png_of, runs_of

_UNDEFINED = "#d9dde2"
_SNR_COLOURS = LinearSegmentedColormap.from_list("snr", ["#eef4fa", "#a9cbe6", "#4a8fc4", "#1c5a96", "#0b2a52"], N=48)
_MARGIN_COLOURS = LinearSegmentedColormap.from_list(
    "margin", ["#1c5a96", "#a9cbe6", "#f7f7f5", "#f8d29b", "#c9740a"], N=48
)
_WRITE_VALUES_UP_TO = 26
_WRITE_INFINITY_UP_TO = 64


def heat_map(rows: Sequence[Row], *, title: str, removed: Collection[int] = ()) -> bytes:
    """SNR (above) and margin (below) of every module in every layer, PNG.

    A cell of a module with several experts is their median. Modules of other stacks than the main one carry the
    stack's prefix.

    Args:
        rows: the table of an analysis, with at least one weight of a layer.
        title: the model's name.
        removed: layers of the main stack to be marked.
    """
    grid = by_module(rows)
    count = 1 + max(layer for cells in grid.values() for layer in cells)
    snr = np.full((len(grid), count), np.nan)
    margin = snr.copy()
    for y, cells in enumerate(grid.values()):
        for layer, members in cells.items():
            snr[y, layer] = np.median([row["snr"] for row in members])
            margin[y, layer] = np.median([row["margin"] for row in members])
    cell = 0.50 if count <= _WRITE_VALUES_UP_TO else max(0.16, 13 / count)
    label_width = 0.085 * max(len(label) for label in grid) + 0.35
    width, panel = max(6.5, label_width + cell * count + 1.1), 0.34 * len(grid)
    height = 2 * panel + 2.35
    figure = new_figure(width, height)
    left, across = label_width / width, cell * count / width
    upper = figure.add_axes((left, (height - 1.05 - panel) / height, across, panel / height))
    lower = figure.add_axes((left, 0.75 / height, across, panel / height))
    figure.text(0.12 / width, 1 - 0.30 / height, f"SNR of {title}", size=13, weight="bold", va="center", color=INK)
    infinite = int(np.isinf(snr).sum())
    figure.text(
        0.12 / width,
        1 - 0.58 / height,
        f"{np.isfinite(margin).sum() or snr.size} cells, {infinite} with infinite SNR (margin above 1)",
        size=9,
        va="center",
        color=FAINT,
    )
    _draw_cells(upper, snr, _SNR_COLOURS, _log_norm(snr[np.isfinite(snr)]), "SNR (log)")
    _draw_cells(lower, margin, _MARGIN_COLOURS, _margin_norm(margin), "margin $s_{min}/\\tau$ (log)")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("layer", color=INK)
    for axes in (upper, lower):
        axes.set_yticks(range(len(grid)), list(grid))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=min(count, 26), integer=True, steps=[1, 2, 5, 10]))
    _mark_removed(upper, lower, removed, len(grid))
    _legend(figure, height, snr, removed)
    return png_of(figure)


def _log_norm(values: npt.NDArray[np.float64]) -> LogNorm:
    positive = values[values > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 10.0)
    return LogNorm(low, high) if high > 1.2 * low else LogNorm(low / 1.5, high * 1.5)


def _margin_norm(margin: npt.NDArray[np.float64]) -> LogNorm:
    """Symmetric about 1, so that white is the border between finite and infinite; at most a factor of 10."""
    positive = margin[np.isfinite(margin) & (margin > 0)]
    reach = float(np.exp(np.abs(np.log(positive)).max())) if len(positive) else 2.0
    reach = min(max(reach, 1.5), 10.0)
    return LogNorm(1 / reach, reach, clip=True)


def _draw_cells(axes: Axes, values: npt.NDArray[np.float64], colours: Colormap, norm: Normalize, label: str) -> None:
    shown = np.where(np.isfinite(values), np.maximum(values, float(norm.vmin or 0)), np.nan)
    image = axes.imshow(shown, cmap=colours.with_extremes(bad="white"), norm=norm, aspect="auto", interpolation="none")
    count = values.shape[1]
    for y, x in np.ndindex(values.shape):
        value = values[y, x]
        if np.isnan(value):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=_UNDEFINED, lw=0))
        elif np.isinf(value):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=INFINITE, lw=0))
            if count <= _WRITE_INFINITY_UP_TO:
                axes.text(x, y, "∞", ha="center", va="center", size=11 if count <= 40 else 8, color=INK)
        elif count <= _WRITE_VALUES_UP_TO:
            red, green, blue, _ = colours(norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            axes.text(x, y, _short(float(value)), ha="center", va="center", size=7.5, color="white" if dark else INK)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.0 if count <= 40 else 0.5)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    box = axes.get_position()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    inches = figure.get_figwidth()
    bar = figure.add_axes((box.x1 + 0.12 / inches, box.y0, 0.12 / inches, box.height))
    colour_bar = figure.colorbar(ScalarMappable(norm, image.cmap), cax=bar)
    ticks = _ticks(norm)
    colour_bar.set_ticks(ticks, labels=[_tick_label(tick, values, norm) for tick in ticks], minor=False)
    bar.minorticks_off()
    bar.tick_params(length=2, labelsize=7.5, labelcolor=INK, color=FAINT)
    bar.set_ylabel(label, size=8, color=INK)
    colour_bar.outline.set_visible(False)


def _tick_label(tick: float, values: npt.NDArray[np.float64], norm: Normalize) -> str:
    """The value, with ≤ or ≥ at an end of the scale beyond which there are cells."""
    finite = values[np.isfinite(values)]
    if np.isclose(tick, float(norm.vmin or 0)) and (finite < tick * 0.999).any():
        return f"≤ {tick:g}"
    if np.isclose(tick, float(norm.vmax or 1)) and (finite > tick * 1.001).any():
        return f"≥ {tick:g}"
    return f"{tick:g}"


def _ticks(norm: Normalize) -> list[float]:
    low, high = float(norm.vmin or 0), float(norm.vmax or 1)
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(np.arange(10, 100) / 10)):
        ticks = [float(step * 10**power) for power in powers for step in steps if low <= step * 10**power <= high]
        if len(ticks) >= 3:
            return ticks[:: max(1, len(ticks) // 6)] if 1.0 not in ticks else ticks
    return [low, high]


def _short(value: float) -> str:
    """At most four characters or so: 0.06, 0.79, 3.9, 21, 640, 2e4."""
    if value == 0:
        return "0"
    if value < 0.0095 or value >= 10_000:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if value < 0.095:
        return f"{value:.1g}"
    if 0.995 <= value < 1.005:
        return f"{value:.3f}"  # on which side of 1 a margin lies decides whether the SNR is infinite
    if value < 1.045:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _mark_removed(upper: Axes, lower: Axes, removed: Collection[int], height: int) -> None:
    for start, stop in runs_of(removed):
        for axes in (upper, lower):
            frame = Rectangle(
                (start - 0.5, -0.5),
                stop - start,
                height,
                fill=False,
                edgecolor=REMOVED,
                lw=1.8,
                clip_on=False,
                zorder=5,
            )
            axes.add_patch(frame)
        for layer in range(start, stop):
            upper.text(layer, -0.72, "✕", ha="center", va="bottom", size=8, color=REMOVED, weight="bold", clip_on=False)


def _legend(figure: Figure, height: float, snr: npt.NDArray[np.float64], removed: Collection[int]) -> None:
    handles: list[Patch] = []
    if np.isinf(snr).any():
        handles.append(Patch(color=INFINITE, lw=0, label="∞  no singular value at or below $\\tau$"))
    if np.isnan(snr).any():
        handles.append(Patch(color=_UNDEFINED, lw=0, label="no such weight, or undefined"))
    if removed:
        handles.append(Patch(facecolor="none", edgecolor=REMOVED, lw=1.8, label="✕  removed by the recipe"))
    if handles:
        width = figure.get_figwidth()
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.05 / width, 0.02 / height),
            ncols=len(handles),
            frameon=False,
            fontsize=8,
        )
