"""What tables of several models need."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merge_assets.errors import EvaluationError

if TYPE_CHECKING:
    import pandas


def shared_prefix(names: Sequence[str]) -> str:
    """The leading ``_``-separated words that all names share, the last word of each left out; none of a single name."""
    words = [name.split("_")[:-1] for name in set(names)]
    shared = os.path.commonprefix(words) if len(words) > 1 else ()  # noqa: RUF071 - of lists of words
    return "".join(f"{word}_" for word in shared)


def frame(columns: Mapping[str, tuple[str, list[Any]]]) -> pandas.DataFrame:
    """A data frame of these columns, each with its type."""
    import pandas as pd

    return pd.DataFrame({name: pd.Series(values, dtype=kind) for name, (kind, values) in columns.items()})


def refuse_repeated(what: str, names: Sequence[str]) -> None:
    """See that no name is there twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise EvaluationError(f"leaderboard: {what} {name!r} appears {count} times")
