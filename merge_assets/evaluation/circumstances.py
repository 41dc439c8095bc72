"""What differs between how two scores were measured, and what another measurement changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from merge_assets.evaluation.otherwise import differing_settings
from merge_assets.evaluation.scores import Scores, TaskScore, format_value

_UNKNOWN = "unknown"


def row_differences(a: TaskScore, b: TaskScore) -> tuple[str, ...]:
    """What two values of one task were not measured alike with, for people: ``torch 2.6.0 and 2.7.0``.

    Empty where nothing differs. Versions of packages, the device's class, the weights' dtype, the documents, the shots and the
    files of the task are looked at.
    """
    return tuple(_differing(a, b))


def differences(a: Scores, b: Scores) -> tuple[str, ...]:
    """The same of two models' scores: of all tasks that both have, each difference once, after what their recipes set."""
    theirs = {(row.task, row.metric): row for row in b.tasks}
    pairs = [(row, theirs[row.task, row.metric]) for row in a.tasks if (row.task, row.metric) in theirs]
    told = [text for one, other in pairs for text in _differing(one, other)]
    return tuple(dict.fromkeys([*differing_settings(a.otherwise, b.otherwise), *told]))


def changes(before: Scores, after: Scores) -> tuple[str, ...]:
    """What measuring again changed: values first, then what the two were not measured alike with; empty if nothing did."""
    was = {(row.task, row.metric): row for row in before.tasks}
    values = [
        f"{row.task} {row.metric}: {format_value(old.value, row.is_fraction)} → {row.text}{_unseen(old, row)}"
        for row in after.tasks
        if (old := was.get((row.task, row.metric))) is not None and old.value != row.value
    ]
    return (*values, *differences(before, after))


def differing_versions(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    """The packages that two things were not made with alike, for people: ``torch 2.6.0 and 2.7.0``."""
    for package in dict.fromkeys([*one, *other]):
        yield from _pair(package, one.get(package, ""), other.get(package, ""))


def _unseen(old: TaskScore, new: TaskScore) -> str:
    """Said where a change is too small for the digits that are shown."""
    same = format_value(old.value, new.is_fraction) == new.text
    return f" ({new.value - old.value:+.2g})" if same else ""


def _differing(a: TaskScore, b: TaskScore) -> Iterator[str]:
    yield from differing_versions(a.made.versions, b.made.versions)
    yield from _pair("device", a.made.device, b.made.device)
    yield from _pair("dtype", a.made.dtype, b.made.dtype)
    yield from _pair("batch size", str(a.made.batch_size), str(b.made.batch_size))
    yield from _pair("chat template", *("on" if row.made.chat else "off" for row in (a, b)))
    for task in dict.fromkeys([*a.made.data, *b.made.data]):
        if a.made.data.get(task) != b.made.data.get(task):
            commits = {a.made.revisions.get(task), b.made.revisions.get(task)}
            told = [row.made.data if len(commits) == 1 or None in commits else row.made.revisions for row in (a, b)]
            yield from _pair(f"the data of {task}", *(known.get(task, "")[:12] for known in told))
    yield from _pair(f"shots of {a.task}", str(a.shots), str(b.shots))
    yield from _pair(f"documents of {a.task}", str(a.n), str(b.n))
    if a.task_digest != b.task_digest:
        yield f"the files of {a.task}"


def _pair(what: str, one: str, other: str) -> Iterator[str]:
    if one != other:
        yield f"{what} {one or _UNKNOWN} and {other or _UNKNOWN}"
