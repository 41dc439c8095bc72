"""What is known of transformers without importing it.

Tables, made from the version that is installed (``python -m tests.tables``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from merge_assets.architecture.config import levels


@cache
def read_table(name: str) -> Mapping[str, Any]:
    """The content of a table beside this file."""
    table: dict[str, Any] = json.loads((files("merge_assets.architecture") / name).read_text(encoding="utf-8"))
    return table


def model_types(config: Mapping[str, Any]) -> Iterator[str]:
    """The model type of a config and of each of its sections."""
    for section in levels(dict(config)):
        if isinstance(kind := section.get("model_type"), str):
            yield kind
