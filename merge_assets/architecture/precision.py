"""Tensors that a model computes with in float32, whatever the dtype of its other weights.

Which they are is said by the classes of transformers, which load them so; their names are a table, made from the version that
is installed (``python -m tests.tables``), so that nothing of it has to be imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from merge_assets.architecture.config import levels

TABLE = "precision.json"

_ALWAYS = re.compile(r"(?:^|\.)A_log$|e_score_correction_bias")
"""Of state space models, whose own code keeps it so, and of routers, in families that transformers does not have, too."""


def stays_float32(name: str, config: Mapping[str, Any], dtype: str) -> bool:
    """Whether a tensor is kept in float32 where the others are rounded.

    Args:
        name: of the tensor.
        config: of the model that it is of.
        dtype: safetensors code that the others are rounded to.
    """
    if dtype not in ("F16", "BF16"):
        return False
    which = ("strict", "half") if dtype == "F16" else ("strict",)
    kinds = (kind for section in levels(dict(config)) if isinstance(kind := section.get("model_type"), str))
    return _ALWAYS.search(name) is not None or any(
        pattern.search(name) for kind in kinds for one in which for pattern in _patterns(kind, one)
    )


@cache
def _patterns(kind: str, which: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(text.replace("*", ".*")) for text in _table().get(kind, {}).get(which, ()))


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files("merge_assets.architecture") / TABLE).read_text(encoding="utf-8"))
    return table
