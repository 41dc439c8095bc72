"""The members of groups, such as MMLU's subjects: each with a value of its own and a verdict on its difference to the parents'.

lm-eval's value of a group is what enters scores and headlines. Those of its members follow from the samples. Their verdicts are
adjusted for each other, group by group: nobody who looks at headlines pays for 57 subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.judge import SamplesOf
from merge_assets.evaluation.leaderboard import Cell, Column, Leaderboard, LeaderboardEntry, Parent
from merge_assets.evaluation.pairs import value_of
from merge_assets.evaluation.samples import SuiteSamples, TaskSamples
from merge_assets.evaluation.scores import Scores, TaskScore, metric_key


@dataclass(frozen=True)
class TaskGroup:
    """A task of a suite that is a group, with its members.

    Attributes:
        column: of the group itself.
        columns: of its members.
        cells: of every model that has members, by title and column.
    """

    column: Column
    columns: list[Column]
    cells: Mapping[str, Mapping[Column, Cell]]


@lru_cache(maxsize=1)  # a page is made twice: to be told from the last one, and to be written
def groups_of(board: Leaderboard) -> tuple[TaskGroup, ...]:
    """The groups among the columns of a leaderboard whose members' samples are kept."""
    found = []
    for column in board.columns:
        if column.task is None:
            continue
        members = _board_of(board, column)
        if members.columns:
            cells = {row.entry.model: row.cells for row in members.rows if row.cells}
            found.append(TaskGroup(column, members.columns, cells))
    return tuple(found)


def _board_of(board: Leaderboard, column: Column) -> Leaderboard:
    """A leaderboard of the members of one group."""
    split = _Split(board.samples, column)
    entries = [
        LeaderboardEntry(
            model=entry.model,
            kind=entry.kind,
            parents=[replace(parent, scores=split(parent.scores)) for parent in _with_scores(entry.parents)],
            scores=split(entry.scores),
        )
        for entry in board.entries
    ]
    return Leaderboard(entries, samples=split.samples_of)


def _with_scores(parents: Iterable[Parent]) -> list[Parent]:
    return [parent for parent in parents if parent.scores]


class _Split:
    """Scores of a group's members in the place of the group's; the same object for the same scores."""

    def __init__(self, samples: SamplesOf, column: Column) -> None:
        self._samples = samples
        self._column = column
        self._made: dict[int, tuple[Scores, Scores | None]] = {}  # kept with what it is of, so that ids stay theirs
        self._of: dict[int, SuiteSamples] = {}

    def __call__(self, scores: Iterable[Scores]) -> list[Scores]:
        made = (self._members(one) for one in scores if one.suite == self._column.suite)
        return [one for one in made if one is not None]

    def samples_of(self, scores: Scores) -> SuiteSamples:
        return self._of.get(id(scores), {})

    def _members(self, scores: Scores) -> Scores | None:
        if id(scores) not in self._made:
            self._made[id(scores)] = scores, self._split(scores)
        return self._made[id(scores)][1]

    def _split(self, scores: Scores) -> Scores | None:
        wanted = (self._column.task, self._column.metric)
        group = next((row for row in scores.tasks if (row.task, row.metric) == wanted), None)
        tasks = self._samples(scores).get(group.result[:8], {}) if group is not None else {}
        if group is None or len(tasks) < 2:
            return None
        rows: list[TaskScore] = []
        samples: dict[str, Mapping[str, TaskSamples]] = {}
        for name, one in sorted(tasks.items()):
            if (row := _row(group, name, one)) is not None:
                rows.append(row)
                samples[row.result[:8]] = {name: one}
        none = {"headline": None, "headline_stderr": None, "failures": ()}
        made = scores.model_copy(update={"tasks": tuple(rows), **none})
        self._of[id(made)] = samples
        return made if rows else None


def _row(group: TaskScore, name: str, samples: TaskSamples) -> TaskScore | None:
    """The row that a member would have; None if its value does not follow from its documents."""
    key = metric_key(group.metric, dict.fromkeys(samples.sums))
    if key is None:
        return None
    sums = samples.sums[key]
    if not len(sums) or not np.isfinite(sums).all() or not (sums[:, 1] > 0).all():
        return None
    value = value_of(group.metric, float(sums[:, 0].sum() / sums[:, 1].sum()))
    result = hashlib.sha256(f"{group.result} {name}".encode()).hexdigest()
    update = {"task": name, "value": value, "stderr": None, "n": len(sums), "result": result, "flaws": Flaws()}
    return group.model_copy(update=update)
