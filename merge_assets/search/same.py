"""Points of a space that make the same merge, such as two layers to be removed in either order: one of them is tried.

Whether they do is told by the key of their plans: equal keys stand for equal files. So nothing needs to be known of which
places of which method may change sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from merge_assets.search.trials import SAME, Trial

PLAN = "plan"
"""Under this the key of a trial's plan is written down."""


def same_merge(trials: Iterable[Trial], key: str) -> Trial | None:
    """The first trial that is done and is of the same plan; ``None`` if there is none.

    Args:
        trials: of one search.
        key: of a plan.
    """
    return next((one for one in trials if one.state == "done" and one.told.get(PLAN) == key), None)


def taken_from(first: Trial) -> dict[str, Any]:
    """What is written down of a trial that is the same merge as another: what that one came to, and no time of its own."""
    return {**first.told, SAME: first.number, "merge_seconds": 0.0, "evaluation_seconds": 0.0, "bytes_linked": 0}
