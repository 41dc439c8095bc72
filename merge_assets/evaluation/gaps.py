"""What a leaderboard lacks, because tasks failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from merge_assets.evaluation.scores import Scores


def gaps(scores: Iterable[Scores]) -> dict[tuple[str, str], None]:
    """Tasks and metrics that failed for some model."""
    return {(failure.task, failure.metric): None for one in scores for failure in one.failures}


def reason_of_gap(of_suites: Iterable[Scores], suite: str, task: str | None, metric: str | None) -> str:
    """Why a model has no value in a column: that of a task, or of the headline; empty if it has one, or nobody asked for it."""
    for scores in of_suites:
        if scores.suite == suite and task is None:
            return scores.failed if scores.headline is None else ""
        if scores.suite == suite:
            reasons = (one.reason for one in scores.failures if (one.task, one.metric) == (task, metric))
            return next(reasons, "")
    return ""


def part_of(of_suites: Iterable[Scores], suite: str) -> str:
    """Of which part of its tasks a model's headline is; see :attr:`Scores.part`."""
    return next((scores.part for scores in of_suites if scores.suite == suite), "")


def is_of_the_same(ours: Sequence[Scores], theirs: Sequence[Scores], suite: str) -> bool:
    """Whether two headlines are of the same tasks."""
    one, other = (next((scores for scores in each if scores.suite == suite), None) for each in (ours, theirs))
    return one is not None and other is not None and one.missing == other.missing
