"""What files were found to be that were read once, kept under where the file lies and the state in which it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.digests import DIGEST, PATTERN
from merge_assets.sealed import seal, unseal

_DIGEST = re.compile(rf"[0-9a-f]{{64}}|{PATTERN}")


def kept_at(cache_dir: Path, place: str, state: tuple[int | str, ...], tensors: Sequence[TensorHeader]) -> Path:
    """Where a file's digests are kept; the tensors' offsets are part of the key.

    Args:
        cache_dir: below which they are.
        place: path or URL of the file.
        state: other if the file's bytes may be.
        tensors: of the file.
    """
    key = json.dumps([place, state, [[tensor.begin, tensor.end] for tensor in tensors]])
    return cache_dir / "digests" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def read_kept(entry: Path, count: int) -> list[str] | None:
    """The digests that were kept; ``None`` if there are none, or what is there is damaged or of another kind."""
    digests = _fields(entry).get("digests")
    if isinstance(digests, list) and len(digests) == count and all(_DIGEST.fullmatch(str(d)) for d in digests):
        return digests
    return None


def read_kept_counts(entry: Path, count: int) -> list[int] | None:
    """The same of how many elements of each tensor are NaN or infinite."""
    counts = _fields(entry).get("nonfinite")
    if isinstance(counts, list) and len(counts) == count and all(type(one) is int and one >= 0 for one in counts):
        return counts
    return None


def _fields(entry: Path) -> Mapping[str, Any]:
    with suppress(OSError):
        fields = unseal(entry.read_bytes())
        if fields is not None and (fields.get("of"), fields.get("tensors")) == (entry.stem, DIGEST):
            return fields
    return {}


def keep(entry: Path, digests: list[str], nonfinite: list[int] | None = None) -> None:
    """Keep digests, and counts of elements where there are any; a cache that cannot be written only costs the next reader
    time."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=entry.parent, delete=False) as file:
            counted = {} if nonfinite is None else {"nonfinite": nonfinite}
            file.write(seal({"of": entry.stem, "tensors": DIGEST, "digests": digests, **counted}))
        os.replace(file.name, entry)  # noqa: PTH105
