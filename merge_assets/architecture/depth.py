"""Families whose arithmetic may depend on where a layer stands, or on how many there are, and not on a key of the config alone.

For all other families that transformers has, nobody need be asked when layers change their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_assets.architecture.tables import model_types, read_table

TABLE = "depth.json"


def depends_on_depth(config: Mapping[str, Any]) -> bool:
    """Whether a config is of such a family."""
    return any(kind in read_table(TABLE)["families"] for kind in model_types(config))
