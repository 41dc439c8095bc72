"""The trials of a search as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from merge_assets.search.trials import Trial


def frame_of(trials: Sequence[Trial], paths: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """One row per trial: its number and state, its value in every place, what it came to by every objective, its times, and
    why its candidate was stored: empty if it was made of a model that was loaded.

    Lists are written as JSON, places that are not filled are empty, and so is ``same_as`` of trials that were tried themselves.

    Args:
        trials: any.
        paths: the places.
        labels: the objectives.
    """
    rows: list[dict[str, Any]] = []
    for trial in trials:
        objectives = trial.told.get("objectives", {})
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state,
                "same_as": trial.same_as,
                **{path: _plain(trial.values.get(path)) for path in paths},
                **{label: objectives.get(label) for label in labels},
                "merge_seconds": trial.told.get("merge_seconds"),
                "evaluation_seconds": trial.told.get("evaluation_seconds"),
                "stored": trial.told.get("stored"),
                "fingerprint": trial.told.get("fingerprint"),
                "documents": trial.told.get("documents"),
                "reason": trial.reason,
                "began": trial.began,
                "ended": trial.ended,
            }
        )
    return pd.DataFrame(rows)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
