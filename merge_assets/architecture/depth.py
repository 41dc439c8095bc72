"""Families whose arithmetic may depend on where a layer stands, or on how many there are, and not on a key of the config alone.

A table, made from the transformers that is installed (``python -m tests.tables``): for all other families that it has, nobody
need be asked when layers change their places.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from merge_assets.architecture.config import levels

TABLE = "depth.json"


def depends_on_depth(config: Mapping[str, Any]) -> bool:
    """Whether a config is of such a family."""
    return any(section.get("model_type") in _families() for section in levels(dict(config)))


@cache
def _families() -> frozenset[str]:
    table = json.loads((files("merge_assets.architecture") / TABLE).read_text(encoding="utf-8"))
    return frozenset(table["families"])
