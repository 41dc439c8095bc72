"""Pictures of an analysis: a heat map of layers by modules, and the spectra of one module in every layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.analysis.heat_map import heat_map
from merge_assets.analysis.picture import by_module
from merge_assets.analysis.spectrum_plot import spectrum_plot

if TYPE_CHECKING:
    from merge_assets.analysis.result import Analysis


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
    for label in by_module(analysis.rows):
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
