"""The leaderboard: all models and suites in one table, with the difference of every score to each parent's.

pandas is imported only where a data frame is asked for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.circumstances import differences, row_differences
from merge_assets.evaluation.gaps import gaps, is_of_the_same, part_of, reason_of_gap
from merge_assets.evaluation.otherwise import differing_settings
from merge_assets.evaluation.published import PublishedValue, published_values
from merge_assets.evaluation.scores import Scores, TaskScore
from merge_assets.evaluation.tables import refuse_repeated, shared_prefix
from merge_assets.evaluation.verdicts import UNKNOWN, Pair, Verdict, are_equal
from merge_assets.freshness import short

if TYPE_CHECKING:
    from merge_assets.evaluation.judge import Judge, SamplesOf
    from merge_assets.evaluation.samples import SuiteSamples
    from merge_assets.recipe import Published


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


@dataclass(frozen=True)
class Past:
    """Scores of one version of a model, as they were measured last, and when: UTC, ISO 8601."""

    when: str
    scores: Scores


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
        history: scores of all versions of the model, this one among them, the oldest first.
        places: its values in the places in which the points of its sweep, or the trials of its search, differ, by key path.
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
    history: list[Past] = field(default_factory=list)
    places: Mapping[str, Any] = field(default_factory=dict)


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
        verdict: what the documents say of it.
        caveats: what else differs between the two evaluations.
    """

    parent: str
    version: str
    parent_value: float
    difference: float
    gain: float
    verdict: Verdict = UNKNOWN
    caveats: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        rank: None for a model without a score in the ranking column.
        entry: the model.
        cells: its scores.
        ranks: the best and the worst rank that the model may have, at 95 %; None without a rank.
    """

    rank: int | None
    entry: LeaderboardEntry
    cells: Mapping[Column, Cell]
    ranks: tuple[int, int] | None = None

    def failed(self, column: Column) -> str:
        """Why there is no score in a column; empty if there is one, or nobody asked for it."""
        return reason_of_gap(self.entry.scores, column.suite, column.task, column.metric)

    @property
    def notes(self) -> list[str]:
        """What to mind of the scores and their differences to the parents, why nothing can be told, or why there are none."""
        cells = self.cells.values()
        notes = [
            f"{delta.parent}: {text}"
            for cell in cells
            for delta in cell.deltas
            for text in (*delta.caveats, *((f"cannot tell: {delta.verdict.why}",) if delta.verdict.why else ()))
        ]
        notes += [f"{scores.suite}: {note}" for scores in self.entry.scores for note in scores.notes]
        return list(dict.fromkeys([*notes, *(parent.unknown for cell in cells for parent in cell.unknown)]))


def _no_samples(scores: Scores) -> SuiteSamples:
    return {}


class Leaderboard:
    """All models, ranked.

    Models are ranked by the headline of one suite; scores that are equal, but for the last digits of their arithmetic, share a
    rank; models that lack some of its tasks come after the others, and models without it last. A suite without headline is
    ranked by its first task.

    Args:
        entries: the models; suites may differ between them.
        rank_by: the suite to rank by; the one with most models, then the first by name, if None.
        samples: what each model's documents say; without them, nothing can be told of any difference.
        published: what others published of models, by the title of the variant whose recipe says it.

    Raises:
        EvaluationError: two entries share a title, an entry has two scores of one suite, or no entry has ``rank_by``.
    """

    def __init__(
        self,
        entries: Sequence[LeaderboardEntry],
        *,
        rank_by: str | None = None,
        samples: SamplesOf = _no_samples,
        published: Mapping[str, Sequence[Published]] | None = None,
    ) -> None:
        self.entries = list(entries)
        self.samples = samples
        self._published = published or {}
        refuse_repeated("model", [entry.model for entry in self.entries])
        for entry in self.entries:
            refuse_repeated(f"{entry.model}: suite", [scores.suite for scores in entry.scores])
        counts = Counter(scores.suite for entry in self.entries for scores in entry.scores)
        suites = sorted(counts, key=lambda suite: (suite != rank_by, -counts[suite], suite))
        if rank_by is not None and rank_by not in counts:
            raise EvaluationError(f"leaderboard: no model has scores of suite {rank_by!r}; known: {', '.join(suites)}")
        self.suites = suites
        self.columns = [column for suite in suites for column in self._columns_of(suite)]

    @cached_property
    def published(self) -> list[PublishedValue]:
        """What others published, beside what these models' scores are."""
        return published_values(self._published, {entry.model: entry.scores for entry in self.entries})

    @property
    def rank_column(self) -> Column | None:
        """The column that decides the ranks; None when there are no scores."""
        return self.columns[0] if self.columns else None

    @cached_property
    def rows(self) -> list[Row]:
        """The entries in the order of their ranks."""
        from merge_assets.evaluation.judge import Judge

        judge = Judge(self.samples)
        verdicts = self._verdicts(judge)
        entries = {entry.model: entry for entry in self.entries}
        cells = {model: self._cells(entry, verdicts) for model, entry in entries.items()}
        places = self._places(cells, judge)
        ordered = sorted(entries, key=lambda model: (places[model][0] if model in places else len(entries) + 1, model))
        unranked = (None, None)
        return [
            Row(rank, entries[model], cells[model], interval)
            for model in ordered
            for rank, interval in [places.get(model, unranked)]
        ]

    def _places(
        self, cells: Mapping[str, Mapping[Column, Cell]], judge: Judge
    ) -> dict[str, tuple[int, tuple[int, int] | None]]:
        """Rank and its interval of each model that has one."""
        column = self.rank_column
        if column is None:
            return {}
        scored = [entry for entry in self.entries if column in cells[entry.model]]
        values = {entry.model: cells[entry.model][column].value for entry in scored}
        parts = {entry.model: bool(cells[entry.model][column].part) for entry in scored}
        sign = -1 if column.higher_is_better else 1
        ranks: dict[str, int] = {}
        first = ""
        for place, model in enumerate(sorted(values, key=lambda model: (parts[model], sign * values[model])), 1):
            tied = bool(first) and parts[model] == parts[first] and are_equal(values[model], values[first])
            first = first if tied else model
            ranks[model] = ranks[first] if tied else place
        of = [_of_suite(entry.scores, column.suite) for entry in scored]
        intervals = judge.rank_intervals(
            of, list(values.values()), column.task, column.metric, higher=column.higher_is_better
        )
        return {model: (ranks[model], interval) for model, interval in zip(values, intervals, strict=True)}

    def _verdicts(self, judge: Judge) -> Mapping[tuple[str, Column, int], Verdict]:
        """What is said of each difference, by model, column and parent."""
        pairs: dict[tuple[str, Column, int], Pair] = {}
        for entry in self.entries:
            for column in self.columns:
                for parent in entry.parents:
                    if _raw(entry.scores, column) is not None and _raw(parent.scores, column) is not None:
                        ours, theirs = (_of_suite(each, column.suite) for each in (entry.scores, parent.scores))
                        key = (entry.model, column, id(parent))
                        pairs[key] = Pair(ours, theirs, column.task, column.metric, column.higher_is_better)
        return dict(zip(pairs, judge.verdicts(list(pairs.values())), strict=True))

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

    def _cells(
        self, entry: LeaderboardEntry, verdicts: Mapping[tuple[str, Column, int], Verdict]
    ) -> dict[Column, Cell]:
        cells = {}
        for column in self.columns:
            raw = _raw(entry.scores, column)
            if raw is None:
                continue
            value, stderr, shots, n = raw
            theirs = [(parent, _raw(parent.scores, column)) for parent in entry.parents]
            deltas = tuple(
                Delta(
                    parent.model,
                    parent.fingerprint,
                    found[0],
                    value - found[0],
                    value - found[0] if column.higher_is_better else found[0] - value,
                    verdicts[entry.model, column, id(parent)],
                    _caveats(entry.scores, parent.scores, column),
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


def beside_parents(scores: Sequence[Scores], parents: Sequence[Parent], samples: SamplesOf | None = None) -> Row:
    """One model's scores with the differences to its parents; verdicts are adjusted for all that this row has."""
    entry = LeaderboardEntry(model="", kind="variant", parents=list(parents), scores=list(scores))
    return Leaderboard([entry], samples=samples or _no_samples).rows[0]


def _caveats(ours: Sequence[Scores], theirs: Sequence[Scores], column: Column) -> tuple[str, ...]:
    """What the two evaluations behind a column's values were not measured alike with."""
    one, other = (_of_suite(each, column.suite) for each in (ours, theirs))
    if column.task is None:
        return differences(one, other)
    rows = [_row(scores, column) for scores in (one, other)]
    asked = differing_settings(one.otherwise, other.otherwise)
    return (*asked, *row_differences(*(row for row in rows if row is not None)))


def _of_suite(of_suites: Sequence[Scores], suite: str) -> Scores:
    return next(scores for scores in of_suites if scores.suite == suite)


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
    """▲ for better, ▼ for worse, ≈ where nothing can be told."""
    return {"better": "▲", "worse": "▼", "cannot tell": "≈"}[delta.verdict.word]
