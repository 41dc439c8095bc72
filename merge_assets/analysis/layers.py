"""Read the figures of a written analysis back: plain JSON, no numerical package."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_assets.errors import AnalysisError
from merge_assets.records import RecordFile

ANALYSIS_VERSION = "2"
"""Raised whenever an analysis of the same bytes would have other figures; part of the key of every analysis and spectrum."""

TABLE = "snr.json"

_METRICS = ("snr", "margin")


Row = dict[str, Any]
"""A scored weight, with the keys of :data:`merge_assets.analysis.tables.COLUMNS`."""


class AnalysisRecord(RecordFile):
    """What ``snr.json`` says.

    Attributes:
        model: the model's title.
        layers: number of layers of the main stack.
        weights: one row per weight; ``null`` stands where a figure is infinite or undefined.
        notes: tensor -> why it was not scored, or was scored whole although it is fused.
    """

    model: str
    layers: int
    weights: list[Row]
    notes: Mapping[str, str]


def read_document(directory: Path) -> AnalysisRecord:
    """The content of ``snr.json``, with ``null`` turned back into infinity or NaN.

    Raises:
        AnalysisError: the file is missing, damaged, or of another format.
    """
    file = directory / TABLE
    try:
        document = AnalysisRecord.of(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise AnalysisError(f"{file}: there is no analysis here; run the SNR analysis of this model first") from error
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{file}: cannot be read: {error}; run the SNR analysis of this model again") from error
    for row in document.weights:
        for key in ("snr", "snr_normalised", "margin"):
            if row[key] is None:
                row[key] = math.inf if row["infinite"] else math.nan
    return document


def read_rows(directory: Path) -> list[Row]:
    """One dict per scored weight, with the columns of ``snr.parquet``."""
    return read_document(directory).weights


def read_layers(directory: Path, tensor: str, by: str) -> list[dict[str, Any]]:
    """The figures of one weight per layer, in layer order.

    Args:
        directory: a written analysis.
        tensor: consecutive parts of the weight's name between dots: ``v_proj``, ``self_attn.v_proj``, or with the
            stack's prefix where several stacks have such a weight.
        by: ``snr`` or ``margin``.

    Returns:
        Per layer ``{"layer", "value", "infinite", "margin", "tensor"}``; ``value`` is the metric, which may be
        ``inf``, or NaN where the SNR is undefined.

    Raises:
        AnalysisError: unknown metric, no such weight, or more than one in a layer.
    """
    if by not in _METRICS:
        raise AnalysisError(f"{by!r} is not a metric of an SNR analysis; use one of {', '.join(_METRICS)}")
    rows = read_rows(directory)
    wanted = f".{tensor.strip('.')}."
    matches = [row for row in rows if row["layer"] is not None and wanted in f".{row['tensor']}."]
    if not matches:
        available = ", ".join(sorted({row["module"] for row in rows if row["layer"] is not None}))
        raise AnalysisError(
            f"{directory / TABLE}: no weight of any layer is called {tensor!r}; this analysis has {available or 'none'}"
        )
    found: dict[int, dict[str, Any]] = {}
    for row in matches:
        other = found.setdefault(row["layer"], row)
        if other is not row:
            raise AnalysisError(
                f"{directory / TABLE}: {tensor!r} matches more than one weight of layer {row['layer']}: "
                f"{other['tensor']} and {row['tensor']}; write more of the name"
            )
    return [
        {
            "layer": layer,
            "value": row[by],
            "infinite": row["infinite"],
            "margin": row["margin"],
            "tensor": row["tensor"],
        }
        for layer, row in sorted(found.items())
    ]
