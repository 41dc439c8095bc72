"""Columns of the leaderboard for the places in which the points of a sweep, or what a search found, differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_assets.recipe.sweep import labels_of

if TYPE_CHECKING:
    from merge_assets.evaluation.leaderboard import LeaderboardEntry

MOST = 6
"""Columns; of more places, those that most models have a value in."""

_LONGEST = 24


@dataclass(frozen=True)
class VariedPlace:
    """A place in which models differ.

    Attributes:
        path: its key path.
        label: what it is called in the head of a column.
    """

    path: str
    label: str


def varied_places(entries: Sequence[LeaderboardEntry]) -> list[VariedPlace]:
    """Every place in which some model has a value, those of most models first."""
    counts = Counter(path for entry in entries for path in entry.places)
    paths = [path for path, _ in counts.most_common()]
    labels = {path: label.rstrip("_") for path, label in labels_of(paths).items()}
    twice = Counter(labels.values())
    return [VariedPlace(path, labels[path] if twice[labels[path]] == 1 else path) for path in paths]


def place_text(value: Any) -> str:
    """A value for people: numbers in five digits, the name of a model without its folder, the end of what is long."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.5g}"
    text = value.rsplit("/", 1)[-1] if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"


def place_key(value: Any) -> str:
    """A value for sorting and for tables: numbers in full, the rest as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
