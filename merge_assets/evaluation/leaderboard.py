"""The leaderboard: all models and suites in one table, with the difference of every score to each parent's.

pandas is imported only where a data frame is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.circumstances import differences, row_differences
from merge_assets.evaluation.gaps import gaps, is_of_the_same, part_of, reason_of_gap
from merge_assets.evaluation.scores import Scores, TaskScore
from merge_assets.evaluation.tables import frame, refuse_repeated, shared_prefix
from merge_assets.freshness import short

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Parent:
    """A model that another was made from.

    Attributes:
        model: its title.
        fingerprint: of the bytes that were merged.
        scores: of exactly these bytes, at most one per suite.
    """

    model: str
    fingerprint: str = ""
    scores: Sequence[Scores] = ()

    @property
    def unknown(self) -> str:
        """Why there is no difference to it."""
        return f"not compared with {self.model}: no scores of the version it was made from, {short(self.fingerprint)}"


@dataclass(frozen=True, kw_only=True)
class LeaderboardEntry:
    """One version of one model. All that is said of it is of this version, whatever there is now.

    Attributes:
        model: title, unique in a leaderboard.
        kind: "base" for a checkpoint from outside, "variant" for a merged one.
        method: merge method of a variant.
        parameters: number of weights.
        layers: decoder layers.
        fingerprint: the checkpoint's content digest, which is the version that was scored.
        parents: the models it was made from.
        scores: at most one per suite.
        description: one line.
        recipe: the YAML text of the recipe that it was made by.
        url: where the model can be found.
        stale: why it is not what there is, or would be made, now; ``None`` if it is.
    """

    model: str
    kind: Literal["base", "variant"]
    method: str | None = None
    parameters: int | None = None
    layers: int | None = None
    fingerprint: str = ""
    parents: list[Parent] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    description: str = ""
    recipe: str | None = None
    url: str | None = None
    stale: str | None = None


@dataclass(frozen=True)
class Column:
    """One column of scores: a suite's headline, or the metric of one of its tasks.

    Attributes:
        task: None for the headline.
        metric: None for the headline.
        title: the task's name without the prefix that all tasks of the suite share.
        is_fraction: whether values are shown in percent.
    """

    suite: str
    task: str | None
    metric: str | None
    title: str
    higher_is_better: bool
    is_fraction: bool

    @property
    def name(self) -> str:
        """Column name in data frames: ``suite`` or ``suite/task:metric``."""
        return self.suite if self.task is None else f"{self.suite}/{self.task}:{self.metric}"


@dataclass(frozen=True)
class Delta:
    """The difference of a value to that of the bytes of one parent that were merged.

    Attributes:
        parent: the parent's title.
        version: the parent's fingerprint.
        difference: value minus the parent's value, in the value's unit.
        gain: the same with the sign turned so that positive is better.
        stderr: of the difference, both values taken as independent; None where either is unknown.
        caveats: what else differs between the two evaluations.
    """

    parent: str
    version: str
    parent_value: float
    difference: float
    gain: float
    stderr: float | None
    caveats: tuple[str, ...] = ()

    @property
    def is_clear(self) -> bool:
        """Whether the difference exceeds its standard error (or that is unknown)."""
        return self.difference != 0 and (self.stderr is None or abs(self.difference) > self.stderr)


@dataclass(frozen=True)
class Cell:
    """One model's score in one column, with its differences to the parents that have the same score.

    Attributes:
        deltas: in the order of the entry's parents.
        unknown: the other parents: what was merged of them has no such score.
        best_parent: the difference to the parent whose value is best, None without such parents.
        part: ``5 of 6`` for a headline that some tasks are missing of, which is not compared with that of all.
    """

    value: float
    stderr: float | None
    shots: int | None
    n: int | None
    deltas: tuple[Delta, ...]
    unknown: tuple[Parent, ...]
    best_parent: Delta | None
    part: str = ""

    @property
    def compared(self) -> tuple[Delta | Parent, ...]:
        """For every parent the difference, or the parent itself where there is none."""
        return (*self.deltas, *self.unknown)


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard: ``rank`` is None for a model without a score in the ranking column."""

    rank: int | None
    entry: LeaderboardEntry
    cells: Mapping[Column, Cell]

    def failed(self, column: Column) -> str:
        """Why there is no score in a column; empty if there is one, or nobody asked for it."""
        return reason_of_gap(self.entry.scores, column.suite, column.task, column.metric)

    @property
    def notes(self) -> list[str]:
        """What to mind of the scores and of their differences to the parents, or why there are none."""
        cells = self.cells.values()
        notes = [f"{delta.parent}: {caveat}" for cell in cells for delta in cell.deltas for caveat in delta.caveats]
        notes += [f"{scores.suite}: {note}" for scores in self.entry.scores for note in scores.notes]
        return list(dict.fromkeys([*notes, *(parent.unknown for cell in cells for parent in cell.unknown)]))


class Leaderboard:
    """All models, ranked.

    Models are ranked by the headline of one suite; equal scores share a rank, models that lack some of its tasks come after the
    others, and models without it last.
    A suite without headline is ranked by its first task.

    Args:
        entries: the models; suites may differ between them.
        rank_by: the suite to rank by; the one with most models, then the first by name, if None.

    Raises:
        EvaluationError: two entries share a title, an entry has two scores of one suite, or no entry has ``rank_by``.
    """

    def __init__(self, entries: Sequence[LeaderboardEntry], *, rank_by: str | None = None) -> None:
        self.entries = list(entries)
        refuse_repeated("model", [entry.model for entry in self.entries])
        for entry in self.entries:
            refuse_repeated(f"{entry.model}: suite", [scores.suite for scores in entry.scores])
        counts = Counter(scores.suite for entry in self.entries for scores in entry.scores)
        suites = sorted(counts, key=lambda suite: (suite != rank_by, -counts[suite], suite))
        if rank_by is not None and rank_by not in counts:
            raise EvaluationError(f"leaderboard: no model has scores of suite {rank_by!r}; known: {', '.join(suites)}")
        self.suites = suites
        self.columns = [column for suite in suites for column in self._columns_of(suite)]

    @property
    def rank_column(self) -> Column | None:
        """The column that decides the ranks; None when there are no scores."""
        return self.columns[0] if self.columns else None

    @cached_property
    def rows(self) -> list[Row]:
        """The entries in the order of their ranks."""
        column = self.rank_column
        entries = {entry.model: entry for entry in self.entries}
        cells = {model: self._cells(entry) for model, entry in entries.items()}

        def key(model: str) -> tuple[bool, float]:
            if column is None or column not in cells[model]:
                return True, math.inf
            value = cells[model][column].value
            return bool(cells[model][column].part), -value if column.higher_is_better else value

        ordered = sorted((key(model), model) for model in entries)
        keys = [each for each, _ in ordered]
        return [
            Row(None if each[1] == math.inf else keys.index(each) + 1, entries[model], cells[model])
            for each, model in ordered
        ]

    def table(self) -> pandas.DataFrame:
        """One row per model; missing values are null (``<NA>``), never NaN.

        Columns: rank, model, kind, method, parameters, layers, parents and their versions, then for each score column
        ``name`` (in lm-eval's unit), ``name stderr``, ``name n``, ``name delta`` (to the best parent, value minus parent's
        value) and ``name best parent``; then description, url, fingerprint, stale: why a row is out of date,
        and failed: which tasks have no value, and why.
        """
        rows, entries = self.rows, [row.entry for row in self.rows]
        columns: dict[str, tuple[str, list[Any]]] = {
            "rank": ("Int64", [row.rank for row in rows]),
            "model": ("string", [entry.model for entry in entries]),
            "kind": ("string", [entry.kind for entry in entries]),
            "method": ("string", [entry.method for entry in entries]),
            "parameters": ("Int64", [entry.parameters for entry in entries]),
            "layers": ("Int64", [entry.layers for entry in entries]),
            "parents": ("object", [[parent.model for parent in entry.parents] for entry in entries]),
            "parent versions": ("object", [[parent.fingerprint for parent in entry.parents] for entry in entries]),
        }
        for column in self.columns:
            cells = [row.cells.get(column) for row in rows]
            best = [cell.best_parent if cell else None for cell in cells]
            name = column.name
            columns[name] = ("Float64", [cell.value if cell else None for cell in cells])
            columns[f"{name} stderr"] = ("Float64", [cell.stderr if cell else None for cell in cells])
            columns[f"{name} n"] = ("Int64", [cell.n if cell else None for cell in cells])
            columns[f"{name} delta"] = ("Float64", [delta.difference if delta else None for delta in best])
            columns[f"{name} best parent"] = ("string", [delta.parent if delta else None for delta in best])
        columns["description"] = ("string", [entry.description for entry in entries])
        columns["url"] = ("string", [entry.url for entry in entries])
        columns["fingerprint"] = ("string", [entry.fingerprint for entry in entries])
        columns["stale"] = ("string", [entry.stale for entry in entries])
        columns["failed"] = (
            "string",
            ["; ".join(s.failed for s in one.scores if s.failures) or None for one in entries],
        )
        return frame(columns)

    def deltas(self) -> pandas.DataFrame:
        """One row per model, score column and parent.

        Columns: model, parent, parent_version, suite, task and metric (null for the headline), value, parent_value, delta
        (value minus parent_value), gain (its sign turned so that positive is better), delta_stderr, note: why there is no
        difference, or what to mind of it.
        """
        found = [
            (row.entry.model, column, cell, each)
            for row in self.rows
            for column, cell in row.cells.items()
            for each in cell.compared
        ]
        deltas = [each if isinstance(each, Delta) else None for _, _, _, each in found]
        return frame(
            {
                "model": ("string", [model for model, _, _, _ in found]),
                "parent": ("string", [each.parent if isinstance(each, Delta) else each.model for *_, each in found]),
                "parent_version": (
                    "string",
                    [each.version if isinstance(each, Delta) else each.fingerprint for *_, each in found],
                ),
                "suite": ("string", [column.suite for _, column, _, _ in found]),
                "task": ("string", [column.task for _, column, _, _ in found]),
                "metric": ("string", [column.metric for _, column, _, _ in found]),
                "value": ("Float64", [cell.value for _, _, cell, _ in found]),
                "parent_value": ("Float64", [delta.parent_value if delta else None for delta in deltas]),
                "delta": ("Float64", [delta.difference if delta else None for delta in deltas]),
                "gain": ("Float64", [delta.gain if delta else None for delta in deltas]),
                "delta_stderr": ("Float64", [delta.stderr if delta else None for delta in deltas]),
                "note": ("string", [_note(each) for *_, each in found]),
            }
        )

    def _columns_of(self, suite: str) -> list[Column]:
        scores = [s for entry in self.entries for s in entry.scores if s.suite == suite]
        rows: dict[tuple[str, str], TaskScore] = {}
        for row in itertools.chain.from_iterable(s.tasks for s in scores):
            rows.setdefault((row.task, row.metric), row)
        prefix = shared_prefix([task for task, _ in rows])
        columns = [
            Column(suite, task, metric, task.removeprefix(prefix), row.higher_is_better, row.is_fraction)
            for (task, metric), row in rows.items()
        ]
        failed = [name for name in gaps(scores) if name not in rows]
        columns += [Column(suite, task, metric, task.removeprefix(prefix), True, True) for task, metric in failed]
        headline = (
            [Column(suite, None, None, "average", True, True)] if any(s.headline is not None for s in scores) else []
        )
        return headline + columns

    def _cells(self, entry: LeaderboardEntry) -> dict[Column, Cell]:
        cells = {}
        for column in self.columns:
            raw = _raw(entry.scores, column)
            if raw is None:
                continue
            value, stderr, shots, n = raw
            theirs = [(parent, _raw(parent.scores, column)) for parent in entry.parents]
            deltas = tuple(
                replace(
                    _delta(parent, value, stderr, found[0], found[1], column.higher_is_better),
                    caveats=_caveats(entry.scores, parent.scores, column),
                )
                for parent, found in theirs
                if found is not None
                and (column.task is not None or is_of_the_same(entry.scores, parent.scores, column.suite))
            )
            unknown = tuple(parent for parent, found in theirs if found is None)
            best = min(deltas, key=lambda delta: delta.gain, default=None)
            part = "" if column.task is not None else part_of(entry.scores, column.suite)
            cells[column] = Cell(value, stderr, shots, n, deltas, unknown, best, part)
        return cells


def _caveats(ours: Sequence[Scores], theirs: Sequence[Scores], column: Column) -> tuple[str, ...]:
    """What the two evaluations behind a column's values were not measured alike with."""
    one, other = (next(scores for scores in each if scores.suite == column.suite) for each in (ours, theirs))
    if column.task is None:
        return differences(one, other)
    rows = [_row(scores, column) for scores in (one, other)]
    return row_differences(*(row for row in rows if row is not None))


def _row(scores: Scores, column: Column) -> TaskScore | None:
    return next((row for row in scores.tasks if (row.task, row.metric) == (column.task, column.metric)), None)


def _raw(of_suites: Sequence[Scores], column: Column) -> tuple[float, float | None, int | None, int | None] | None:
    """Value, stderr, shots and n."""
    for scores in of_suites:
        if scores.suite != column.suite:
            continue
        if column.task is None:
            return None if scores.headline is None else (scores.headline, scores.headline_stderr, None, None)
        row = _row(scores, column)
        return None if row is None else (row.value, row.stderr, row.shots, row.n)
    return None


def format_count(count: int | None) -> str:
    """A number of parameters for people: 1.29M, 7.24B; empty for None."""
    if count is None:
        return ""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:  # what three digits round up to
            return f"{count / size:.3g}{unit}"
    return str(count)


def arrow(delta: Delta) -> str:
    """▲ for better, ▼ for worse, nothing for equal."""
    return "▲" if delta.gain > 0 else "▼" if delta.gain < 0 else ""


def _delta(
    parent: Parent, value: float, stderr: float | None, theirs: float, their_stderr: float | None, higher: bool
) -> Delta:
    combined = None if stderr is None or their_stderr is None else math.hypot(stderr, their_stderr)
    difference = value - theirs
    gain = difference if higher else -difference
    return Delta(parent.model, parent.fingerprint, theirs, difference, gain, combined)


def _note(to: Delta | Parent) -> str | None:
    if isinstance(to, Parent):
        return to.unknown
    return "; ".join(to.caveats) or None
