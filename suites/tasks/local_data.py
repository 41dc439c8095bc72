"""The demo tasks' data, from the folder ``data`` beside this file, and what they measure of a passage."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

DATA = Path(__file__).resolve().parent / "data"


def load(file: str, **_: Any) -> dict[str, datasets.Dataset]:
    """Read one JSON Lines file of ``data/`` as the split ``test``."""
    import datasets

    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def likelihood(doc: Mapping[str, str], results: Sequence[float]) -> dict[str, float | tuple[float, int]]:
    """What the log-likelihood of a passage, in nats, says.

    ``compression`` is the share of its bytes that are saved when it is written down with the model's probabilities: 1 minus an
    eighth of its bits per byte. Unlike a perplexity it is a number of each passage by itself, so that two models can be
    compared passage by passage. The others are lm-eval's own, of all passages together.
    """
    (nats,) = results
    size = len(doc["text"].encode())
    return {
        "compression": 1 + nats / (8 * math.log(2) * size),
        "byte_perplexity": (nats, size),
        "word_perplexity": (nats, len(re.split(r"\s+", doc["text"]))),
        "bits_per_byte": (nats, size),
    }
