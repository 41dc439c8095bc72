"""What recipes set otherwise than suites say, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MARK = "‡"
"""Behind the name of a model that was asked otherwise than the suite says."""

_LONGEST = 80
_KNOWN_AS_IT_CAME_OUT = frozenset({"dtype", "batch_size"})
"""What is recorded of every value besides, and compared there."""


def set_otherwise(otherwise: Mapping[str, Any]) -> str:
    """That a model was asked otherwise than the suite says, and how."""
    how = ", ".join(f"{key} {_shown(value)}" for key, value in otherwise.items())
    return f"its recipe has it asked otherwise than the suite says: {how}"


def differing_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """What two models were asked otherwise, by what their recipes set: ``system_prompt "A" and the suite's``."""
    for key in dict.fromkeys([*one, *other]):
        if key not in _KNOWN_AS_IT_CAME_OUT and (key not in one or key not in other or one[key] != other[key]):
            yield f"{key} {_of(one, key)} and {_of(other, key)}"


def _of(settings: Mapping[str, Any], key: str) -> str:
    return _shown(settings[key]) if key in settings else "the suite's"


def _shown(value: Any) -> str:
    """A value as YAML has it; a long one shortened."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) and value.isidentifier() else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
