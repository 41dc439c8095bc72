"""Tasks of a suite that have no value for a model, and why: the others count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_assets.errors import MergeAssetsError, ModelMemoryError
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import SuiteTask
from merge_assets.records import Record

_ADDRESS = re.compile(" at 0x[0-9a-f]+")
"""What differs from time to time in the message of an error."""


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


def failed_of(error: MergeAssetsError, suite: Suite, task: str, model_dir: Path) -> Failed:
    """An error as a row of scores says it, which names the task and the model by itself."""
    where = suite.where(task)
    text = str(error).removeprefix(f"{where}: {task} on {model_dir.resolve()} ").removeprefix(f"{where}: ")
    text = _ADDRESS.sub("", text.removeprefix("failed: "))
    return Failed(text, error.may_pass or isinstance(error, ModelMemoryError))


def all_failures(failures: Sequence[TaskFailure], rows: int) -> str:
    """Which of so many rows have no value and why, in one line; empty if all have one."""
    if not failures:
        return ""
    said = "; ".join(f"{failure.task}: {failure.reason}" for failure in failures)
    return f"{len(failures)} of {rows} task{'' if rows == 1 else 's'} failed: {said}"
