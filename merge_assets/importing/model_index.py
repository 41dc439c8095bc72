"""``model-index`` of a card's front matter: results that its author published, as the Hub shows them beside the card."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from merge_assets.errors import RecipeError
from merge_assets.importing.score_tables import ScoreTable, benchmark, in_percent, model_of
from merge_assets.yamlfile import parse_documents

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_MOST = 400
"""Values of a card that are read."""
_LONGEST = 120
"""Characters of a benchmark's name."""


def model_index(text: str, own_names: Collection[str], file: Path) -> list[ScoreTable]:
    """The results of a card's front matter, one entry for each model; none if it has none, or is no YAML.

    A benchmark that the Open LLM Leaderboards have goes by the name that tables give it, another by its data set's name, and by
    its metric's, too, where it has several. Values between 0 and 1 become percent where all benchmarks are of these.

    Args:
        text: Markdown.
        own_names: what the model of the card is called; results of it have no model.
        file: stands for it in errors, which are not raised.
    """
    front = _FRONT.match(text)
    if front is None:
        return []
    try:
        documents = parse_documents(f"\n{front[1]}", file)
    except RecipeError:
        return []
    data = documents[0].data if documents else None
    given = data.get("model-index") if isinstance(data, dict) else None
    entries: list[Any] = given if isinstance(given, list) else []
    line = documents[0].lines.get(("model-index",), 1) if documents else 1
    found: dict[str, ScoreTable] = {}
    known = True
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        model = model_of(str(entry.get("name", "")), own_names) if len(entries) > 1 else ""
        table = found.setdefault(model, ScoreTable(model, line))
        for name, value in _results(entry.get("results")):
            table.values.setdefault(name, value)
            known = known and benchmark(name.replace("_", " ")) is not None
    filled = [table for table in found.values() if table.values]
    return [in_percent(table) for table in filled] if known else filled


def _results(results: Any) -> Iterator[tuple[str, float]]:
    """Name and value of each metric."""
    for result in results[:_MOST] if isinstance(results, list) else ():
        dataset, metrics = (
            (result.get(key) for key in ("dataset", "metrics")) if isinstance(result, Mapping) else (0, 0)
        )
        title = str(dataset.get("name") or dataset.get("type") or "") if isinstance(dataset, Mapping) else ""
        values = [
            (str(metric.get("name") or metric.get("type") or ""), value)
            for metric in (metrics if isinstance(metrics, list) else ())
            if isinstance(metric, Mapping) and (value := _number(metric.get("value"))) is not None
        ]
        name = benchmark(title) or " ".join(title.split())[:_LONGEST]
        for metric, value in values if name else ():
            yield (name if len(values) == 1 else f"{name} {metric}".strip()[:_LONGEST]), value


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
