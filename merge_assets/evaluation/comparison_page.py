"""A page per comparison: answers that a variant gained and lost against a parent, by task, with both answers and the gold one.

Pages lie beside the leaderboard's and link to it. They load nothing, and are bounded: see
:data:`~merge_assets.evaluation.comparison.PER_PAGE`; the texts of a document are cut.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from merge_assets.evaluation.comparison import Change, ParentComparison, TaskChanges
from merge_assets.evaluation.documents import Lines, ShownDocument, read_documents
from merge_assets.evaluation.leaderboard import Column, Delta, arrow
from merge_assets.evaluation.page_texts import difference, evidence, label, number, tone
from merge_assets.evaluation.scores import Scores
from merge_assets.freshness import short
from merge_assets.markup import beside, render

_PACKAGE = "merge_assets.evaluation"

ComparedVersions = tuple[str, str, str]
"""A variant's title, its parent's, and the version of the parent."""

_Place = tuple[int, str, str, str, str]
"""Where documents lie: the id of the scores, the digits of the result, the task, the filter and the metric."""


@dataclass(frozen=True)
class ShownChange:
    """One document of a page."""

    change: Change
    ours: ShownDocument
    theirs: ShownDocument


@dataclass(frozen=True)
class ShownTask:
    """One task of a page with the documents that are shown."""

    suite: str
    tasks: TaskChanges
    gained: Sequence[ShownChange]
    lost: Sequence[ShownChange]


def comparison_names(comparisons: Sequence[ParentComparison]) -> dict[ComparedVersions, str]:
    """The file of each comparison, relative to the leaderboard's folder."""
    return {_of(each): _name(_of(each)) for each in comparisons}


def comparison_pages(comparisons: Sequence[ParentComparison], lines: Lines, title: str) -> dict[str, str]:
    """The page of each comparison by its file's name; samples are read once, whatever number of pages needs them.

    Args:
        comparisons: what to show.
        lines: the samples.
        title: of the leaderboard.
    """
    kept: dict[_Place, dict[int, ShownDocument]] = {}
    wanted: dict[_Place, set[int]] = {}
    of: dict[_Place, Scores] = {}
    for comparison in comparisons:
        for scores, place, index in _places(comparison):
            wanted.setdefault(place, set()).add(index)
            of[place] = scores
    for place, indices in wanted.items():
        _, result, task, kind, metric = place
        kept[place] = read_documents(lines(of[place], result, task), kind, metric, indices)
    return {_name(_of(each)): comparison_page(each, kept, title) for each in comparisons}


def comparison_page(
    comparison: ParentComparison, documents: Mapping[_Place, Mapping[int, ShownDocument]], title: str
) -> str:
    """One page; no external resource is loaded."""
    return render(
        _PACKAGE,
        "comparison.html.j2",
        title=title,
        style=beside("merge_assets", "look.css")
        + beside(_PACKAGE, "leaderboard.css")
        + beside(_PACKAGE, "comparison.css"),
        comparison=comparison,
        parts=[_part(comparison, suite, tasks, documents) for suite, tasks in _distinct(comparison)],
        counted={
            (suite, tasks.row.task, tasks.row.metric): _summed(comparison, suite, tasks)
            for suite, tasks in comparison.tasks
        },
        arrow=arrow,
        difference=difference,
        evidence=evidence,
        label=label,
        number=number,
        short=short,
        theirs=_parents_value,
        tone=tone,
        value=_value,
    )


def _part(
    comparison: ParentComparison,
    suite: str,
    tasks: TaskChanges,
    documents: Mapping[_Place, Mapping[int, ShownDocument]],
) -> ShownTask:
    ours, theirs = _both(comparison, suite, tasks)
    nothing = ShownDocument("", "", "", "")

    def read(changes: Sequence[Change]) -> list[ShownChange]:
        return [
            ShownChange(
                change,
                documents.get(ours, {}).get(change.place[0], nothing),
                documents.get(theirs, {}).get(change.place[1], nothing),
            )
            for change in changes
        ]

    return ShownTask(suite, tasks, read(tasks.shown_gained), read(tasks.shown_lost))


def _distinct(comparison: ParentComparison) -> list[tuple[str, TaskChanges]]:
    """The tasks of a page; of several metrics by which the same documents of a task changed, the first."""
    found: dict[object, tuple[str, TaskChanges]] = {}
    for suite, tasks in comparison.tasks:
        places = [tuple(one.place for one in shown) for shown in (tasks.shown_gained, tasks.shown_lost)]
        found.setdefault((suite, tasks.result, tasks.task, *places), (suite, tasks))
    return list(found.values())


def _places(comparison: ParentComparison) -> Iterator[tuple[Scores, _Place, int]]:
    """Every document that a page shows, in both models' samples."""
    for suite, tasks in _distinct(comparison):
        for change in (*tasks.shown_gained, *tasks.shown_lost):
            both = zip(
                (comparison.ours[suite], comparison.theirs[suite]),
                _both(comparison, suite, tasks),
                change.place,
                strict=True,
            )
            yield from both


def _both(comparison: ParentComparison, suite: str, tasks: TaskChanges) -> tuple[_Place, _Place]:
    ours, theirs = (
        (id(scores), result, tasks.task, tasks.filter, tasks.row.metric)
        for scores, result in zip((comparison.ours[suite], comparison.theirs[suite]), tasks.result, strict=True)
    )
    return ours, theirs


def _summed(comparison: ParentComparison, suite: str, tasks: TaskChanges) -> tuple[int, int]:
    """Documents gained and lost of a row, all of its members together."""
    same = [
        one
        for of, one in comparison.tasks
        if of == suite and (one.row.task, one.row.metric) == (tasks.row.task, tasks.row.metric)
    ]
    return sum(one.gained for one in same), sum(one.lost for one in same)


def _of(comparison: ParentComparison) -> ComparedVersions:
    return comparison.entry.model, comparison.parent.model, comparison.parent.fingerprint


def _name(compared: ComparedVersions) -> str:
    digest = hashlib.sha256("\0".join(compared).encode()).hexdigest()[:8]
    words = (re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[:60] for part in compared[:2])
    return f"comparisons/{'-against-'.join(words)}-{digest}.html"


def _parents_value(delta: Delta, column: Column) -> str:
    return number(delta.parent_value, column)


def _value(change: Change, which: int, is_binary: bool) -> str:
    value = change.values[which]
    return ("right" if value else "wrong") if is_binary else f"{value:.4g}"
