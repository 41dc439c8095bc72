"""Pictures of layer importance: one value per layer, and distances over runs of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from merge_assets.analysis.importance import ImportanceRecord, of_whole, reverse_order, values_of
from merge_assets.analysis.picture import FAINT, INFINITE, INK, new_figure, png_of

_BAR = "#4a8fc4"
_LOWEST = "#c81e4a"
_DISTANCES = LinearSegmentedColormap.from_list(
    "distance", ["#0b2a52", "#1c5a96", "#4a8fc4", "#a9cbe6", "#eef4fa"], N=48
)
_HEIGHT = 3.4


def pictures(record: ImportanceRecord) -> dict[str, bytes]:
    """PNG by name: ``block_influence`` and ``angular_distance``, or ``perplexity``."""
    if record.kind == "perplexity":
        return {"perplexity": _perplexity(record)}
    return {"block_influence": _block_influence(record), "angular_distance": _angular_distance(record)}


def _block_influence(record: ImportanceRecord) -> bytes:
    figure, axes = _new(record, f"Block influence of {record.model}")
    _draw_bars(axes, values_of(record, "block_influence"))
    axes.set_ylabel("1 − mean cosine (log)", size=9, color=INK)
    return png_of(figure)


def _perplexity(record: ImportanceRecord) -> bytes:
    """How much it rises without each layer, as bars, and without the last ones, as a line; in percent of the whole model's."""
    whole = of_whole(record)
    rise = {layer: 100 * (value / whole - 1) for layer, value in values_of(record, "perplexity").items()}
    cut = {layer: 100 * (value / whole - 1) for layer, value in reverse_order(record).items()}
    figure, axes = _new(record, f"Perplexity of {record.model} without layers")
    layers = sorted(rise)
    heights = np.array([rise[layer] for layer in layers])
    sizes = np.abs(heights[np.isfinite(heights) & (heights != 0)])
    least = float(sizes.min()) if len(sizes) else 1.0
    lowest = layers[int(np.nanargmin(heights))]
    colours = [_LOWEST if layer == lowest else _BAR for layer in layers]
    axes.bar(layers, heights, 0.72, color=colours, lw=0, zorder=3, label="without this layer")
    axes.plot(
        layers,
        [cut[layer] for layer in layers],
        color=INFINITE,
        lw=1.4,
        marker=".",
        ms=5,
        zorder=4,
        label="without this layer and all behind it",
    )
    axes.set_yscale("symlog", linthresh=least)
    axes.set_ylim(min(0.0, 2 * float(np.nanmin(heights))), 2 * float(np.nanmax(heights)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g} %" if value else "0"))
    axes.set_ylabel(f"rise from {whole:.4g} (log)", size=9, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    _layer_axis(axes, len(layers))
    return png_of(figure)


def _angular_distance(record: ImportanceRecord) -> bytes:
    """Starts of runs to the right, lengths upwards; the lowest distance of every length is marked."""
    count = record.layers
    grid = np.full((count, count), np.nan)
    for length in range(1, count + 1):
        for start, value in values_of(record, "angular_distance", length).items():
            grid[length - 1, start] = value
    side = float(np.clip(0.26 * count, 3.4, 8.0))
    width, height = side + 2.1, side * 0.75 + 1.5
    figure = new_figure(width, height)
    axes = figure.add_axes((0.7 / width, 0.6 / height, side / width, side * 0.75 / height))
    _title(figure, record, f"Angular distance in {record.model}")
    positive = grid[np.isfinite(grid) & (grid > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 1.0)
    norm = LogNorm(low, max(high, 1.01 * low))
    axes.imshow(
        np.where(grid > 0, grid, np.where(np.isnan(grid), np.nan, low)),
        cmap=_DISTANCES.with_extremes(bad="white"),
        norm=norm,
        aspect="auto",
        origin="lower",
        interpolation="none",
        extent=(-0.5, count - 0.5, 0.5, count + 0.5),
    )
    best = [int(np.nanargmin(row)) for row in grid]
    axes.plot(best, range(1, count + 1), ls="", marker="o", ms=4, mfc=INFINITE, mec="white", mew=0.6, zorder=4)
    axes.set_xlabel("first layer of the run", size=9, color=INK)
    axes.set_ylabel("layers in the run", size=9, color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=12, integer=True, steps=[1, 2, 5, 10]))
    _plain(axes)
    bar = figure.add_axes(((0.7 + side + 0.15) / width, 0.6 / height, 0.12 / width, side * 0.75 / height))
    scale = figure.colorbar(ScalarMappable(norm, _DISTANCES), cax=bar)
    ticks = [tick for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5) if low <= tick <= high]
    scale.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
    bar.minorticks_off()
    bar.tick_params(length=2, labelsize=7.5, labelcolor=INK, color=FAINT)
    bar.set_ylabel("arccos(cosine) / π (log)", size=8, color=INK)
    scale.outline.set_visible(False)
    figure.text(
        (0.7 + side) / width,
        1 - 0.58 / height,
        "● lowest of its length",
        size=8,
        va="center",
        ha="right",
        color="#9a6412",
    )
    return png_of(figure)


def _new(record: ImportanceRecord, title: str) -> tuple[Figure, Axes]:
    width = float(np.clip(0.30 * record.layers, 5.0, 12.0)) + 1.0
    figure = new_figure(width, _HEIGHT)
    axes = figure.add_axes((0.95 / width, 0.55 / _HEIGHT, (width - 1.15) / width, (_HEIGHT - 1.35) / _HEIGHT))
    _title(figure, record, title)
    return figure, axes


def _title(figure: Figure, record: ImportanceRecord, title: str) -> None:
    width, height = figure.get_size_inches()
    text = record.text
    figure.text(0.12 / width, 1 - 0.28 / height, title, size=13, weight="bold", va="center", color=INK)
    figure.text(
        0.12 / width,
        1 - 0.56 / height,
        f"{text.file}, {text.pieces} pieces of {text.length} tokens, {text.dtype}",
        size=9,
        va="center",
        color=FAINT,
    )


def _draw_bars(axes: Axes, values: Mapping[int, float]) -> None:
    layers: Sequence[int] = sorted(values)
    heights: npt.NDArray[np.float64] = np.array([values[layer] for layer in layers])
    shown = np.where(np.isfinite(heights) & (heights > 0), heights, np.nan)
    floor = 0.7 * float(np.nanmin(shown))
    lowest = layers[int(np.nanargmin(shown))]
    colours = [_LOWEST if layer == lowest else _BAR for layer in layers]
    axes.bar(layers, shown - floor, 0.72, floor, color=colours, lw=0, zorder=3)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _layer_axis(axes, len(layers))


def _layer_axis(axes: Axes, count: int) -> None:
    axes.set_xlim(-0.6, count - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(count, 24), integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("layer", size=9, color=INK)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(which="both", length=2, labelsize=8, labelcolor=INK, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
