"""What scores come to by the objectives of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_assets.errors import SearchError
from merge_assets.recipe import Objective

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores


def value_of(scores: Scores, objective: Objective) -> float:
    """What scores come to by one objective.

    Raises:
        SearchError: they have no such value, or it is not of all tasks.
    """
    if objective.task is None:
        if scores.headline is None or scores.part:
            raise SearchError(f"the headline of {scores.suite} is of {scores.part or 'no'} tasks: {scores.failed}")
        return scores.headline
    for row in scores.tasks:
        if row.task == objective.task and objective.metric in (None, row.metric):
            return row.value
    raise SearchError(f"{objective.label} has no value: {scores.failed}")


def metric_of(scores: Scores, objective: Objective) -> str | None:
    """The metric of an objective as the scores call it; None for a headline."""
    if objective.task is None:
        return None
    return next(
        row.metric for row in scores.tasks if row.task == objective.task and objective.metric in (None, row.metric)
    )
