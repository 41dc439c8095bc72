"""Read the figures of a written analysis of layer importance back: plain JSON, no numerical package."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from merge_assets.errors import AnalysisError
from merge_assets.records import Record, RecordFile

IMPORTANCE_VERSION = "1"
"""Raised whenever the same bytes and the same text would have other figures; part of the key of every such analysis."""

TABLE = "importance.json"

Metric = Literal["block_influence", "angular_distance", "perplexity", "reverse_order"]


class Figure(Record):
    """One figure.

    Attributes:
        metric: what was measured.
        layer: the first layer that it is of; ``None`` for the whole model.
        count: layers from it on: 1 of block influence; 0 of the whole model.
        value: the figure; ``None`` where it is infinite or undefined.
    """

    metric: Metric
    layer: int | None
    count: int
    value: float | None


class MeasuredText(Record):
    """What a model was run on.

    Attributes:
        file: name of the text's file.
        digest: SHA-256 of its bytes.
        tokens: how many were used.
        pieces: of which each was run alone.
        length: tokens of a piece.
        dtype: of weights and hidden states.
    """

    file: str
    digest: str
    tokens: int
    pieces: int
    length: int
    dtype: str


class ImportanceRecord(RecordFile):
    """What ``importance.json`` says.

    Attributes:
        model: the model's title.
        kind: ``activations`` or ``perplexity``.
        layers: number of layers.
        text: what the model was run on.
        figures: what was measured.
    """

    model: str
    kind: Literal["activations", "perplexity"]
    layers: int
    text: MeasuredText
    figures: Sequence[Figure]


def read_importance(directory: Path) -> ImportanceRecord:
    """The content of ``importance.json``.

    Raises:
        AnalysisError: the file is missing, damaged, or of another format.
    """
    file = directory / TABLE
    try:
        return ImportanceRecord.of(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise AnalysisError(
            f"{file}: there is no analysis here; measure the importance of this model's layers first"
        ) from error
    except (OSError, ValueError) as error:
        raise AnalysisError(
            f"{file}: cannot be read: {error}; measure the importance of this model's layers again"
        ) from error


def values_of(record: ImportanceRecord, metric: Metric, count: int = 1) -> dict[int, float]:
    """Layer -> figure; NaN where it is undefined.

    Args:
        record: what was measured.
        metric: which of it.
        count: layers that a figure is of, for ``angular_distance``.
    """
    wanted = [f for f in record.figures if f.metric == metric and f.layer is not None and f.count == count]
    return {f.layer: math.nan if f.value is None else f.value for f in wanted if f.layer is not None}


def reverse_order(record: ImportanceRecord) -> dict[int, float]:
    """Layer -> perplexity without it and all layers behind it; NaN where it is undefined."""
    found = (figure for figure in record.figures if figure.metric == "reverse_order")
    return {f.layer: math.nan if f.value is None else f.value for f in found if f.layer is not None}


def of_whole(record: ImportanceRecord) -> float:
    """Perplexity of the whole model; NaN where it is undefined."""
    found = [f.value for f in record.figures if f.metric == "perplexity" and f.layer is None]
    return math.nan if not found or found[0] is None else found[0]


def layer_rows(record: ImportanceRecord, metric: str, count: int) -> list[dict[str, Any]]:
    """The figures that ``prune_layers`` chooses by, in layer order, as ``read_layers`` has them for an SNR.

    Args:
        record: what was measured.
        metric: ``block_influence``, ``angular_distance`` or ``perplexity``.
        count: layers in a row that are to be removed, for ``angular_distance``.

    Raises:
        AnalysisError: the analysis has no such figures.
    """
    known: Mapping[str, Metric] = {
        "block_influence": "block_influence",
        "angular_distance": "angular_distance",
        "perplexity": "perplexity",
    }
    found = values_of(record, known[metric], count if metric == "angular_distance" else 1)
    if not found:
        raise AnalysisError(
            f"{record.model}: the analysis of its {record.layers} layers has no {metric} over {count} layers; remove fewer"
        )
    return [
        {"layer": layer, "value": value, "infinite": False, "margin": 0.0, "tensor": ""}
        for layer, value in sorted(found.items())
    ]


def layer_table(record: ImportanceRecord) -> list[dict[str, str]]:
    """A row per layer for people: the metrics over one layer, and the perplexity of the model without that layer and all after
    it (``reverse_order``)."""
    columns = {
        "block_influence": values_of(record, "block_influence"),
        "angular_distance": values_of(record, "angular_distance"),
        "perplexity": values_of(record, "perplexity"),
        "reverse_order": reverse_order(record),
    }
    measured = {name: values for name, values in columns.items() if values}
    return [
        {"layer": str(layer), **{name: f"{values[layer]:.5g}" for name, values in measured.items()}}
        for layer in range(record.layers)
    ]
