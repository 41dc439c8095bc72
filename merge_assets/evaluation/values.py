"""What lm-eval found, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def metrics_of(output: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Values per task and ``metric,filter``; ``None`` for what is no finite number."""
    return {
        name: {metric: _number(value) for metric, value in values.items() if "," in metric}
        for name, values in output["results"].items()
    }


def directions_of(output: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """Per task and metric whether more is better, where lm-eval says so."""
    return {
        name: {metric: better for metric, better in values.items() if isinstance(better, bool)}
        for name, values in output["higher_is_better"].items()
    }


def _number(value: object) -> float | None:
    if isinstance(value, str) or value is None:
        return None
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None
