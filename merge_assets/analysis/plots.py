"""Pictures of an analysis: a heat map of layers by modules, and the spectra of one module in every layer.

PNG bytes of at most 100 kB, so that they can be embedded in a page as a data URI. Figures are drawn without pyplot,
hence without global state, and from any thread.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from merge_assets.analysis.tables import Row

if TYPE_CHECKING:
    from merge_assets.analysis.result import Analysis

MAX_BYTES = 100_000

_INK = "#1f2933"
_FAINT = "#7b8794"
_INFINITE = "#f2a541"
_REMOVED = "#c81e4a"
_UNDEFINED = "#d9dde2"
_SNR_COLOURS = LinearSegmentedColormap.from_list("snr", ["#eef4fa", "#a9cbe6", "#4a8fc4", "#1c5a96", "#0b2a52"], N=48)
_MARGIN_COLOURS = LinearSegmentedColormap.from_list(
    "margin", ["#1c5a96", "#a9cbe6", "#f7f7f5", "#f8d29b", "#c9740a"], N=48
)
_WRITE_VALUES_UP_TO = 26
_WRITE_INFINITY_UP_TO = 64


def write_plots(analysis: Analysis, directory: Path, *, removed: Iterable[int] = ()) -> list[Path]:
    """Draw ``heatmap.png`` and one ``spectra-<module>.png`` per module of the layers.

    Args:
        analysis: what to draw.
        directory: made if it does not exist.
        removed: layers of the main stack to be marked.

    Returns:
        The files written; none if no weight belongs to a layer.
    """
    layers = tuple(removed)
    pictures: dict[str, bytes] = {}
    if any(row["layer"] is not None for row in analysis.rows):
        pictures["heatmap"] = heat_map(analysis.rows, title=analysis.title, removed=layers)
    for label in _grid(analysis.rows):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", label)
        pictures[f"spectra-{slug}"] = spectrum_plot(
            analysis.rows, analysis.spectra, label, title=analysis.title, removed=layers
        )
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, png in pictures.items():
        (directory / f"{name}.png").write_bytes(png)
        files.append(directory / f"{name}.png")
    return files


def heat_map(rows: Sequence[Row], *, title: str, removed: Collection[int] = ()) -> bytes:
    """SNR (above) and margin (below) of every module in every layer, PNG.

    A cell of a module with several experts is their median. Modules of other stacks than the main one carry the
    stack's prefix.

    Args:
        rows: the table of an analysis, with at least one weight of a layer.
        title: the model's name.
        removed: layers of the main stack to be marked.
    """
    grid = _grid(rows)
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
    figure = _figure(width, height)
    left, across = label_width / width, cell * count / width
    upper = figure.add_axes((left, (height - 1.05 - panel) / height, across, panel / height))
    lower = figure.add_axes((left, 0.75 / height, across, panel / height))
    figure.text(0.12 / width, 1 - 0.30 / height, f"SNR of {title}", size=13, weight="bold", va="center", color=_INK)
    infinite = int(np.isinf(snr).sum())
    figure.text(
        0.12 / width,
        1 - 0.58 / height,
        f"{np.isfinite(margin).sum() or snr.size} cells, {infinite} with infinite SNR (margin above 1)",
        size=9,
        va="center",
        color=_FAINT,
    )
    _draw_cells(upper, snr, _SNR_COLOURS, _log_norm(snr[np.isfinite(snr)]), "SNR (log)")
    _draw_cells(lower, margin, _MARGIN_COLOURS, _margin_norm(margin), "margin $s_{min}/\\tau$ (log)")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("layer", color=_INK)
    for axes in (upper, lower):
        axes.set_yticks(range(len(grid)), list(grid))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=min(count, 26), integer=True, steps=[1, 2, 5, 10]))
    _mark_removed(upper, lower, removed, len(grid))
    _legend(figure, height, snr, removed)
    return _png(figure)


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
    layers = [_Layer.of(layer, members, spectra) for layer, members in sorted(_grid(rows)[module].items())]
    floor = min(float(layer.values[layer.values > 0].min(initial=np.inf)) for layer in layers)
    floor = floor if np.isfinite(floor) else 1e-12  # a logarithmic axis has no place for zeros
    marked = set(removed) if _is_main(rows, module) else set()
    experts = max(layer.experts for layer in layers)
    width = float(np.clip(0.26 * len(layers), 5.0, 9.5)) + 5.0
    figure = _figure(width, 4.6)
    boxes = figure.add_axes((0.75 / width, 0.62 / 4.6, (width - 5.55) / width, 2.75 / 4.6))
    curves = figure.add_axes(((width - 4.0) / width, 0.62 / 4.6, 2.95 / width, 2.75 / 4.6))
    scale = figure.add_axes(((width - 0.88) / width, 0.62 / 4.6, 0.12 / width, 2.75 / 4.6))
    x = 0.12 / width
    figure.text(x, 1 - 0.28 / 4.6, f"Spectra of {module}", size=13, weight="bold", va="center", color=_INK)
    rows_, columns = layers[0].shape
    of = f", mean of {experts} experts" if experts > 1 else ""
    figure.text(x, 1 - 0.56 / 4.6, f"{title}, {rows_} × {columns}{of}", size=9, va="center", color=_FAINT)
    _draw_boxes(boxes, layers, floor, marked)
    _draw_curves(figure, curves, scale, layers, floor, marked)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color="#8fa3b5", lw=1.2, label="$s_{min}$ to $s_{max}$"),
        Line2D([], [], color="#1c5a96", lw=5, label="quartiles"),
        Line2D([], [], color=_INK, marker="_", ls="", ms=9, mew=2, label="threshold $\\tau$"),
        Line2D([], [], color="#2f9e6e", marker=".", ls="", ms=7, label="Marchenko-Pastur edge"),
    ]
    if any(layer.infinite for layer in layers):
        handles.append(Patch(color=_INFINITE, alpha=0.35, lw=0, label="infinite SNR"))
    if marked:
        handles.append(Patch(facecolor="none", edgecolor=_REMOVED, hatch="////", lw=0.8, label="removed"))
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
    return _png(figure)


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


def _grid(rows: Sequence[Row]) -> dict[str, dict[int, list[Row]]]:
    """Label -> layer -> the rows of a cell, in the order of the table."""
    main = _main_stack(rows)
    grid: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        if row["layer"] is not None:
            label = row["module"] if row["stack"] == main else f"{row['stack']}…{row['module']}"
            grid.setdefault(label, {}).setdefault(row["layer"], []).append(row)
    return grid


def _main_stack(rows: Sequence[Row]) -> str | None:
    """The stack with most weights."""
    sizes: dict[str, int] = {}
    for row in rows:
        if row["stack"] is not None:
            sizes[row["stack"]] = sizes.get(row["stack"], 0) + row["rows"] * row["columns"]
    return max(sizes, key=lambda stack: sizes[stack], default=None)


def _is_main(rows: Sequence[Row], label: str) -> bool:
    return any(row["module"] == label and row["stack"] == _main_stack(rows) for row in rows)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), facecolor="white")


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
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=_INFINITE, lw=0))
            if count <= _WRITE_INFINITY_UP_TO:
                axes.text(x, y, "∞", ha="center", va="center", size=11 if count <= 40 else 8, color=_INK)
        elif count <= _WRITE_VALUES_UP_TO:
            red, green, blue, _ = colours(norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            axes.text(x, y, _short(float(value)), ha="center", va="center", size=7.5, color="white" if dark else _INK)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.0 if count <= 40 else 0.5)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=_INK)
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
    bar.tick_params(length=2, labelsize=7.5, labelcolor=_INK, color=_FAINT)
    bar.set_ylabel(label, size=8, color=_INK)
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
    for start, stop in _runs(removed):
        for axes in (upper, lower):
            frame = Rectangle(
                (start - 0.5, -0.5),
                stop - start,
                height,
                fill=False,
                edgecolor=_REMOVED,
                lw=1.8,
                clip_on=False,
                zorder=5,
            )
            axes.add_patch(frame)
        for layer in range(start, stop):
            upper.text(
                layer, -0.72, "✕", ha="center", va="bottom", size=8, color=_REMOVED, weight="bold", clip_on=False
            )


def _runs(layers: Collection[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, one past the last)."""
    runs: list[tuple[int, int]] = []
    for layer in sorted(set(layers)):
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return runs


def _legend(figure: Figure, height: float, snr: npt.NDArray[np.float64], removed: Collection[int]) -> None:
    handles: list[Patch] = []
    if np.isinf(snr).any():
        handles.append(Patch(color=_INFINITE, lw=0, label="∞  no singular value at or below $\\tau$"))
    if np.isnan(snr).any():
        handles.append(Patch(color=_UNDEFINED, lw=0, label="no such weight, or undefined"))
    if removed:
        handles.append(Patch(facecolor="none", edgecolor=_REMOVED, lw=1.8, label="✕  removed by the recipe"))
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


def _draw_boxes(axes: Axes, layers: Sequence[_Layer], floor: float, removed: Collection[int]) -> None:
    x = np.array([layer.layer for layer in layers])
    quartiles = [np.quantile(np.maximum(layer.values, floor), (0.25, 0.5, 0.75)) for layer in layers]
    low, middle, high = np.array(quartiles).T
    for start, stop in _runs([layer.layer for layer in layers if layer.infinite]):
        axes.axvspan(start - 0.5, stop - 0.5, color=_INFINITE, alpha=0.35, lw=0)
    for start, stop in _runs(removed):
        axes.axvspan(start - 0.5, stop - 0.5, facecolor="none", edgecolor=_REMOVED, hatch="////", lw=0, alpha=0.45)
    ends = np.maximum([(layer.values[-1], layer.values[0]) for layer in layers], floor)
    axes.vlines(x, ends[:, 0], ends[:, 1], color="#8fa3b5", lw=1.2)
    axes.bar(x, high - low, 0.52, low, color="#1c5a96", lw=0, zorder=3)
    axes.hlines(middle, x - 0.26, x + 0.26, color="white", lw=1.0, zorder=4)
    taus = np.maximum([layer.tau for layer in layers], floor / 30)
    axes.hlines(taus, x - 0.42, x + 0.42, color=_INK, lw=2.0, zorder=5)
    axes.plot(x, [layer.edge for layer in layers], marker=".", ms=6, ls="", color="#2f9e6e", zorder=5)
    axes.set_yscale("log")
    axes.set_xlim(min(layer.layer for layer in layers) - 0.6, max(layer.layer for layer in layers) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=min(len(layers), 24), integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("layer", size=9, color=_INK)
    axes.set_ylabel("singular value (log)", size=9, color=_INK)
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
            shades.append(_REMOVED if group else colours(norm(layer.layer)))
        axes.add_collection(LineCollection(lines, colors=shades, linewidths=1.1, linestyles=[style]))
    axes.autoscale_view()
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_xlabel("rank, 0 largest to 1 smallest", size=9, color=_INK)
    axes.set_ylabel("singular value / median (log)", size=9, color=_INK)
    _plain(axes)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=scale)
    scale.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    scale.set_ylabel("layer", size=8, color=_INK)
    scale.tick_params(length=2, labelsize=7.5, labelcolor=_INK, color=_FAINT)
    bar.outline.set_visible(False)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelsize=8, labelcolor=_INK, color=_FAINT, which="both")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    named = "25" if high < 40 * low else ""
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in named else ""))
    axes.grid(axis="y", color="#e4e7eb", lw=0.6)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    """PNG in 256 colours, at the best of a few resolutions that fits into ``MAX_BYTES``; the smallest if none does."""
    data = b""
    for dpi in (144, 110, 84, 64, 48):
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(dpi)
        canvas.draw()  # type: ignore[no-untyped-call]
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
        out = io.BytesIO()
        _reduce(image).save(out, "png", optimize=True)
        data = out.getvalue()
        if len(data) <= MAX_BYTES:
            break
    return data


def _reduce(image: Image.Image) -> Image.Image:
    """The image in its 256 most frequent colours: areas keep theirs, edges of letters take the nearest."""
    pixels = np.asarray(image).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    found, index, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    colours = found[:, None] >> np.array([16, 8, 0]) & 255
    palette = colours[np.argsort(-counts, kind="stable")[:256]]
    # |a - b|² without the term that is the same for every entry of the palette
    nearest = ((palette**2).sum(axis=1) - 2 * colours @ palette.T).argmin(axis=1)
    reduced = Image.fromarray(nearest.astype(np.uint8)[index].reshape(pixels.shape)).convert("P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced
