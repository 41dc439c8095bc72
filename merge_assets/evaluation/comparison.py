"""Which documents a variant gained and lost against one of its parents: counts of all, and some of them to be looked at.

Of right and wrong answers a document is gained that the variant alone gets right. Of other values, such as log-likelihoods, it
is gained where the variant's is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merge_assets.evaluation.leaderboard import Cell, Column, Delta, Leaderboard, LeaderboardEntry, Parent
from merge_assets.evaluation.pairs import more_is_better
from merge_assets.evaluation.samples import SuiteSamples, TaskSamples
from merge_assets.evaluation.scores import Scores, TaskScore, metric_key

PER_TASK = 10
"""Documents gained, and as many lost, that are shown of one task at most."""
PER_PAGE = 400
"""Documents that a page shows at most; each task shows fewer where there are many."""


@dataclass(frozen=True)
class Change:
    """One document with another result.

    Attributes:
        place: of the document among those of its filter, in the variant's samples and in the parent's.
        values: of the variant and of the parent.
    """

    place: tuple[int, int]
    values: tuple[float, float]


@dataclass(frozen=True)
class TaskChanges:
    """One task, or one member of a group, in two models' samples.

    Attributes:
        result: the digits that tell the task's result among the samples, of the variant and of the parent.
        filter: of the answers.
        is_binary: whether answers are right or wrong.
        n: documents.
        right: documents with the same result that both get right; 0 unless ``is_binary``.
        gained: all documents gained, as a number.
        lost: all documents lost, as a number.
        shown_gained: some of them: those with the largest difference.
        shown_lost: as well.
    """

    row: TaskScore
    task: str
    result: tuple[str, str]
    filter: str
    is_binary: bool
    n: int
    right: int
    gained: int
    lost: int
    shown_gained: Sequence[Change]
    shown_lost: Sequence[Change]


@dataclass(frozen=True)
class ParentComparison:
    """A variant beside one of its parents.

    Attributes:
        ours: the variant's scores by suite.
        theirs: the parent's.
        cells: columns that both have, with the variant's cell and its difference to this parent.
        tasks: what changed, of the tasks whose documents are the same.
    """

    entry: LeaderboardEntry
    parent: Parent
    ours: Mapping[str, Scores]
    theirs: Mapping[str, Scores]
    cells: Sequence[tuple[Column, Cell, Delta]]
    tasks: Sequence[tuple[str, TaskChanges]]


def comparisons_of(board: Leaderboard) -> list[ParentComparison]:
    """Every variant beside every parent of which documents can be matched."""
    found = (_compared(board, row.entry, row.cells, parent) for row in board.rows for parent in row.entry.parents)
    return [one for one in found if one is not None]


def _compared(
    board: Leaderboard, entry: LeaderboardEntry, cells: Mapping[Column, Cell], parent: Parent
) -> ParentComparison | None:
    told = [
        (column, cell, delta)
        for column, cell in cells.items()
        for delta in cell.deltas
        if (delta.parent, delta.version) == (parent.model, parent.fingerprint)
    ]
    ours, theirs = ({one.suite: one for one in scores} for scores in (entry.scores, parent.scores))
    matched = [
        (column, pair)
        for column, _, delta in told
        if column.task is not None and delta.verdict.found is not None
        for pair in _tasks(column, ours[column.suite], theirs[column.suite], board)
    ]
    if not matched:
        return None
    most = max(1, min(PER_TASK, PER_PAGE // (2 * len(matched))))
    tasks = [(column.suite, _changes(*pair, most)) for column, pair in matched]
    return ParentComparison(entry, parent, ours, theirs, told, tasks)


_Pair = tuple[str, tuple[TaskScore, TaskScore], tuple[TaskSamples, TaskSamples]]


def _tasks(column: Column, ours: Scores, theirs: Scores, board: Leaderboard) -> Iterator[_Pair]:
    """The tasks of a column, by name, with rows and samples of the two."""
    rows = [
        next(row for row in scores.tasks if (row.task, row.metric) == (column.task, column.metric))
        for scores in (ours, theirs)
    ]
    samples: list[SuiteSamples] = [board.samples(ours), board.samples(theirs)]
    found = [each.get(row.result[:8], {}) for each, row in zip(samples, rows, strict=True)]
    for task in sorted(found[0].keys() & found[1].keys()):
        yield task, (rows[0], rows[1]), (found[0][task], found[1][task])


def _changes(
    task: str, rows: tuple[TaskScore, TaskScore], samples: tuple[TaskSamples, TaskSamples], most: int
) -> TaskChanges:
    metric = rows[0].metric
    key = metric_key(metric, dict.fromkeys(samples[0].sums))
    assert key is not None  # a verdict was found of it
    kind = key.rpartition(",")[2]
    orders = [np.argsort(one.documents[kind], kind="stable") for one in samples]
    ours, theirs = (_values(one.sums[key])[order] for one, order in zip(samples, orders, strict=True))
    sign = 1.0 if more_is_better(metric, rows[0].higher_is_better) else -1.0
    gains = sign * (ours - theirs)
    both = np.concatenate([ours, theirs])
    is_binary = bool(np.isin(both, (0.0, 1.0)).all())

    def picked(side: NDArray[np.float64]) -> list[Change]:
        places = [place for place in np.argsort(-side, kind="stable")[:most].tolist() if side[place] > 0]
        return [
            Change(
                (int(orders[0][place]), int(orders[1][place])),
                (float(ours[place]), float(theirs[place])),
            )
            for place in places
        ]

    return TaskChanges(
        row=rows[0],
        task=task,
        result=(rows[0].result[:8], rows[1].result[:8]),
        filter=kind,
        is_binary=is_binary,
        n=len(gains),
        right=int(((ours == theirs) & (sign * ours == max(sign, 0.0))).sum()) if is_binary else 0,
        gained=int((gains > 0).sum()),
        lost=int((gains < 0).sum()),
        shown_gained=picked(gains),
        shown_lost=picked(-gains),
    )


def _values(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[documents] of float64[documents, 2]."""
    found: NDArray[np.float64] = sums[:, 0] / sums[:, 1]
    return found
