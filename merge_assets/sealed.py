"""Small JSON files that tell by themselves whether they are whole and unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SEAL = "digest"


def seal(fields: Mapping[str, Any], indent: int | None = None) -> bytes:
    """The fields as JSON, with a digest of them.

    Raises:
        ValueError, TypeError: if they hold what JSON cannot: NaN, infinities, or objects of other types.
    """
    plain = json.loads(json.dumps(fields, allow_nan=False))  # keys that are numbers become text
    return (json.dumps(plain | {_SEAL: _digest(plain)}, indent=indent, ensure_ascii=False) + "\n").encode()


def unseal(raw: bytes | None) -> dict[str, Any] | None:
    """The fields; ``None`` if there are none, or they are not what was sealed."""
    try:
        fields = json.loads(raw or b"")
        if not isinstance(fields, dict) or fields.pop(_SEAL, None) != _digest(fields):
            return None
    except (ValueError, RecursionError):
        return None
    return fields


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
