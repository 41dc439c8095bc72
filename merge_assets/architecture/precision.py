"""Tensors that a model computes with in float32, whatever the dtype of its other weights.

Which they are is said by the classes of transformers, which load them so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from merge_assets.architecture.tables import model_types, read_table

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
    return _ALWAYS.search(name) is not None or any(
        pattern.search(name) for kind in model_types(config) for one in which for pattern in _patterns(kind, one)
    )


@cache
def _patterns(kind: str, which: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(text.replace("*", ".*")) for text in read_table(TABLE).get(kind, {}).get(which, ()))
