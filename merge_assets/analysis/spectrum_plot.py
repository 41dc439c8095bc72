"""The spectra of one module in every layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from merge_assets.analysis.layers import Row
from merge_assets.analysis.picture import (
    FAINT,
    INFINITE,
    INK,
    REMOVED,
    by_module,
    is_of_main_stack,
    new_figure,
    png_of,
    runs_of,
)


def spectrum_plot(
    rows: Sequence[Row],
    spectra: Mapping[str, npt.NDArray[np.float64]],
    module: str,
    *,
    title: str,
    removed: Collection[int] = (),
) -> bytes:
    """The spectra of one module: range, quartiles and threshold per layer (left), and all curves (right), PNG.

    With several experts, the mean of their spectra and the median of their thresholds are drawn.

    Args:
        rows: the table of an analysis.
        spectra: tensor -> singular values, descending.
        module: a module of the heat map.
        title: the model's name.
        removed: layers of the main stack to be marked.
    """
    layers = [_Layer.of(layer, members, spectra) for layer, members in sorted(by_module(rows)[module].items())]
    floor = min(float(layer.values[layer.values > 0].min(initial=np.inf)) for layer in layers)
    floor = floor if np.isfinite(floor) else 1e-12  # a logarithmic axis has no place for zeros
    marked = set(removed) if is_of_main_stack(rows, module) else set()
    experts = max(layer.experts for layer in layers)
    width = float(np.clip(0.26 * len(layers), 5.0, 9.5)) + 5.0
    figure = new_figure(width, 4.6)
    boxes = figure.add_axes((0.75 / width, 0.62 / 4.6, (width - 5.55) / width, 2.75 / 4.6))
    curves = figure.add_axes(((width - 4.0) / width, 0.62 / 4.6, 2.95 / width, 2.75 / 4.6))
    scale = figure.add_axes(((width - 0.88) / width, 0.62 / 4.6, 0.12 / width, 2.75 / 4.6))
    x = 0.12 / width
    figure.text(x, 1 - 0.28 / 4.6, f"Spectra of {module}", size=13, weight="bold", va="center", color=INK)
    rows_, columns = layers[0].shape
    of = f", mean of {experts} experts" if experts > 1 else ""
    figure.text(x, 1 - 0.56 / 4.6, f"{title}, {rows_} × {columns}{of}", size=9, va="center", color=FAINT)
    _draw_boxes(boxes, layers, floor, marked)
    _draw_curves(figure, curves, scale, layers, floor, marked)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color="#8fa3b5", lw=1.2, label="$s_{min}$ to $s_{max}$"),
        Line2D([], [], color="#1c5a96", lw=5, label="quartiles"),
        Line2D([], [], color=INK, marker="_", ls="", ms=9, mew=2, label="threshold $\\tau$"),
        Line2D([], [], color="#2f9e6e", marker=".", ls="", ms=7, label="Marchenko-Pastur edge"),
    ]
    if any(layer.infinite for layer in layers):
        handles.append(Patch(color=INFINITE, alpha=0.35, lw=0, label="infinite SNR"))
    if marked:
        handles.append(Patch(facecolor="none", edgecolor=REMOVED, hatch="////", lw=0.8, label="removed"))
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(x, 1 - 0.70 / 4.6),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        borderpad=0,
        handletextpad=0.5,
        columnspacing=1.4,
    )
    return png_of(figure)


@dataclass(frozen=True)
class _Layer:
    """What is drawn of one layer; ``values`` descending."""

    layer: int
    values: npt.NDArray[np.float64]
    shape: tuple[int, int]
    tau: float
    edge: float
    infinite: bool
    experts: int

    @classmethod
    def of(cls, layer: int, members: Sequence[Row], spectra: Mapping[str, npt.NDArray[np.float64]]) -> _Layer:
        values = np.mean([spectra[row["tensor"]] for row in members], axis=0)
        infinite = float(np.median([row["snr"] for row in members])) == np.inf
        tau, edge = (float(np.median([row[key] for row in members])) for key in ("tau", "mp_edge"))
        return cls(layer, values, (members[0]["rows"], members[0]["columns"]), tau, edge, infinite, len(members))


def _draw_boxes(axes: Axes, layers: Sequence[_Layer], floor: float, removed: Collection[int]) -> None:
    x = np.array([layer.layer for layer in layers])
    quartiles = [np.quantile(np.maximum(layer.values, floor), (0.25, 0.5, 0.75)) for layer in layers]
    low, middle, high = np.array(quartiles).T
    for start, stop in runs_of([layer.layer for layer in layers if layer.infinite]):
        axes.axvspan(start - 0.5, stop - 0.5, color=INFINITE, alpha=0.35, lw=0)
    for start, stop in runs_of(removed):
        axes.axvspan(start - 0.5, stop - 0.5, facecolor="none", edgecolor=REMOVED, hatch="////", lw=0, alpha=0.45)
    ends = np.maximum([(layer.values[-1], layer.values[0]) for layer in layers], floor)
    axes.vlines(x, ends[:, 0], ends[:, 1], color="#8fa3b5", lw=1.2)
    axes.bar(x, high - low, 0.52, low, color="#1c5a96", lw=0, zorder=3)
    axes.hlines(middle, x - 0.26, x + 0.26, color="white", lw=1.0, zorder=4)
    taus = np.maximum([layer.tau for layer in layers], floor / 30)
    axes.hlines(taus, x - 0.42, x + 0.42, color=INK, lw=2.0, zorder=5)
    axes.plot(x, [layer.edge for layer in layers], marker=".", ms=6, ls="", color="#2f9e6e", zorder=5)
    axes.set_yscale("log")
    axes.set_xlim(min(layer.layer for layer in layers) - 0.6, max(layer.layer for layer in layers) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(len(layers), 24), integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("layer", size=9, color=INK)
    axes.set_ylabel("singular value (log)", size=9, color=INK)
    _plain(axes)


def _draw_curves(
    figure: Figure, axes: Axes, scale: Axes, layers: Sequence[_Layer], floor: float, removed: Collection[int]
) -> None:
    first, last = min(layer.layer for layer in layers), max(layer.layer for layer in layers)
    norm = Normalize(first, max(last, first + 1))
    colours = LinearSegmentedColormap.from_list("layers", ["#0b2a52", "#3f7fbf", "#57b59a", "#e0a93b"])
    for group, style in ((False, "-"), (True, (0, (4, 1.5)))):
        members = [layer for layer in layers if (layer.layer in removed) is group]
        lines, shades = [], []
        for layer in members:
            keep = np.unique(np.linspace(0, len(layer.values) - 1, 400).astype(int))
            values = np.maximum(layer.values, floor)
            heights = values[keep] / np.median(values)
            lines.append(np.column_stack((keep / max(1, len(values) - 1), heights)))
            shades.append(REMOVED if group else colours(norm(layer.layer)))
        axes.add_collection(LineCollection(lines, colors=shades, linewidths=1.1, linestyles=[style]))
    axes.autoscale_view()
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_xlabel("rank, 0 largest to 1 smallest", size=9, color=INK)
    axes.set_ylabel("singular value / median (log)", size=9, color=INK)
    _plain(axes)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=scale)
    scale.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    scale.set_ylabel("layer", size=8, color=INK)
    scale.tick_params(length=2, labelsize=7.5, labelcolor=INK, color=FAINT)
    bar.outline.set_visible(False)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, labelcolor=INK, color=FAINT, which="both")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    named = "25" if high < 40 * low else ""
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in named else ""))
    axes.grid(axis="y", color="#e4e7eb", lw=0.6)
    axes.set_axisbelow(True)
