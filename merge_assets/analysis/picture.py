"""What the pictures of an analysis share: colours, the cells of the table, and PNG within a limit.

Figures are drawn without pyplot, hence without global state, and from any thread.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from merge_assets.analysis.layers import Row

MAX_BYTES = 100_000
"""Upper bound on a picture, so that it can be embedded in a page as a data URI."""

INK = "#1f2933"
FAINT = "#7b8794"
INFINITE = "#f2a541"
REMOVED = "#c81e4a"


def by_module(rows: Sequence[Row]) -> dict[str, dict[int, list[Row]]]:
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


def is_of_main_stack(rows: Sequence[Row], label: str) -> bool:
    """Whether a label of :func:`by_module` is that of a module of the stack with most weights."""
    return any(row["module"] == label and row["stack"] == _main_stack(rows) for row in rows)


def runs_of(layers: Collection[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, one past the last)."""
    runs: list[tuple[int, int]] = []
    for layer in sorted(set(layers)):
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return runs


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), facecolor="white")


def png_of(figure: Figure) -> bytes:
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
