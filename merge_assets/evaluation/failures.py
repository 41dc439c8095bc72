"""Tasks of a suite that have no value for a model, and why: the others count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_assets.evaluation.suite import Suite, SuiteTask
from merge_assets.records import Record


class TaskFailure(Record):
    """One row that has no value.

    Attributes:
        metric: as the suite names it.
        headline: whether it would enter the headline.
        reason: in one line, without the names of the task and the model.
        may_pass: whether it may have a value the next time although nothing changes.
    """

    task: str
    metric: str
    headline: bool
    reason: str
    may_pass: bool = False


@dataclass(frozen=True)
class Failed:
    """Why a task has no result; see :class:`TaskFailure`."""

    reason: str
    may_pass: bool = False

    def of(self, suite: Suite, entry: SuiteTask) -> TaskFailure:
        """That of one row of a suite."""
        return TaskFailure(
            task=entry.task,
            metric=entry.metric,
            headline=suite.in_headline(entry),
            reason=self.reason,
            may_pass=self.may_pass,
        )


def all_failures(failures: Sequence[TaskFailure], rows: int) -> str:
    """Which of so many rows have no value and why, in one line; empty if all have one."""
    if not failures:
        return ""
    said = "; ".join(f"{failure.task}: {failure.reason}" for failure in failures)
    return f"{len(failures)} of {rows} task{'' if rows == 1 else 's'} failed: {said}"
