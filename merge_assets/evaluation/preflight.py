"""What an evaluation would fail of, told from files alone before anything is merged: no lm-eval, no torch, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_assets.errors import MergeAssetsError, SuiteError, did_you_mean
from merge_assets.evaluation.declared import METRICS_OF_OUTPUT, Declared, missing_modules
from merge_assets.evaluation.scores import metric_key
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import TOKENS, SuiteTask
from merge_assets.evaluation.task_index import Names, shipped_folder
from merge_assets.extras import not_installed

_OF_SUITE = frozenset({"suite", "task", "metric"})
"""Kinds of findings with which no model can be evaluated, whatever is installed here."""

_MOST = 3
"""Names of tasks that one sentence lists."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen before an evaluation.

    Attributes:
        kind: what it is about: ``suite``, ``settings``, ``task``, ``metric``, ``package``, ``code``, ``data``, ``prompts``,
            ``memory`` or ``time``.
        text: the suite's file, the key path, what was found and what to do.
        fails: whether the evaluation would fail of it; else it is to be known.
    """

    kind: str
    text: str
    fails: bool = True

    @property
    def what(self) -> str:
        """In one word what it means."""
        return "would fail" if self.fails else "mind"


def look_over(suite: Suite, shipped: Names | None) -> list[Finding]:
    """What the files of a suite and of its tasks tell.

    Args:
        suite: the suite.
        shipped: what lm-eval itself declares; ``None`` if that is not known, so that its tasks are not looked at.
    """
    own = suite.declared()
    names: Names = {**(shipped or {}), **own}
    found: list[Finding] = []
    packages: dict[str, list[str]] = {}
    unseen: list[str] = []
    for index, entry in enumerate(suite.tasks):
        where = f"{suite.file}: tasks[{index}]"
        if entry.text is not None:  # its file and its metric were looked at when the suite was read
            continue
        if entry.task not in names:
            if shipped is None:
                unseen.append(entry.task)
            else:
                found.append(Finding("task", unknown(suite, entry.task, "", names)))
            continue
        parts = list(leaves(entry.task, names))
        found += _metric(where, entry, names)
        if not suite.unsafe_code and (unsafe := [name for name, one in parts if one.unsafe]):
            text = (
                f"{where}.task: {_list(unsafe)} {'runs' if len(unsafe) == 1 else 'run'} programs that the model writes; "
                "set unsafe_code: true in the suite to allow it"
            )
            found.append(Finding("code", text))
        for module in missing_modules(_code(names[name] for name in _reached(entry.task, names))):
            packages.setdefault(module, []).append(f"tasks[{index}].task: {entry.task}")
    for module, users in packages.items():
        missing = ModuleNotFoundError(name=module)
        said = not_installed(missing) or f"this needs {module}, which is not installed: pip install {module}"
        found.append(Finding("package", f"{suite.file}: {_list(list(dict.fromkeys(users)))}: {said}"))
    if unseen:
        text = (
            f"{suite.file}: {_list(list(dict.fromkeys(unseen)))} would be of lm-eval itself, whose tasks were not listed on "
            "this machine yet; merge-assets plan --check does that"
        )
        found.append(Finding("task", text, fails=False))
    return list(dict.fromkeys(found))


def unknown(suite: Suite, task: str, lm_eval: str, names: Iterable[str]) -> str:
    """That there is no such task, where it was looked for, and what may be meant."""
    broken = "".join(f"; {path} is not readable: {why}" for path, why in suite.broken_task_files().items())
    folder = f" and not in {suite.tasks_dir}" if suite.tasks_dir else ""
    version = f" {lm_eval}" if lm_eval else ""
    return f"{suite.where(task)}.task: no task {task!r} in lm-eval{version}{folder}{did_you_mean(task, names)}{broken}"


def leaves(name: str, names: Names) -> Iterator[tuple[str, Declared]]:
    """The single tasks that a name stands for, each once."""
    for one in _reached(name, names):
        if names[one].kind in ("task", "class"):
            yield one, names[one]


def _reached(name: str, names: Names) -> list[str]:
    """A name and what its groups and tags list, each once, in their order."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in names and one not in found:
            found[one] = None
            waiting += reversed(names[one].members)
    return list(found)


def _metric(where: str, entry: SuiteTask, names: Names) -> Iterator[Finding]:
    """What is wrong with the metric that is asked of a task."""
    one = names[entry.task]
    asked = f"{where}.metric: {entry.task}"
    if one.kind == "tag":
        if len(one.members) > 1:
            yield Finding(
                "metric", f"{asked} is a tag of {len(one.members)} tasks without a value; list its tasks instead"
            )
        return
    if one.kind == "class" or one.metrics is None:
        return
    if one.kind == "group":
        if not one.metrics:
            parts = [part for part, _ in leaves(entry.task, names)]
            if len(parts) > 1:
                yield Finding(
                    "metric", f"{asked} is a group of {len(parts)} tasks without a value; list its tasks instead"
                )
        elif entry.metric.partition(",")[0] not in one.metrics:
            yield Finding("metric", _no_metric(asked, entry.metric, one.metrics))
        return
    keys = [f"{metric},{name}" for metric in one.metrics for name in one.filters]
    if metric_key(entry.metric, dict.fromkeys(keys)) is not None or _is_added(entry.metric, one.metrics):
        return
    shown = keys if one.filters != ("none",) else list(one.metrics)
    if one.is_open:
        yield Finding("metric", _no_metric(asked, entry.metric, shown) + "; its code may give others", fails=False)
    else:
        yield Finding("metric", _no_metric(asked, entry.metric, shown))


def _is_added(metric: str, declared: Iterable[str]) -> bool:
    """Whether a metric is added to those that a task declares; whether a task generates, its evaluation finds out."""
    name = metric.partition(",")[0]
    return name == TOKENS or (
        name == "perplexity" and not set(declared).isdisjoint(METRICS_OF_OUTPUT["loglikelihood_rolling"])
    )


def _no_metric(asked: str, metric: str, known: Iterable[str]) -> str:
    listed = sorted(known)
    return f"{asked} has no single metric {metric!r} (it has: {', '.join(listed)}){did_you_mean(metric, listed)}"


def _code(declared: Iterable[Declared]) -> list[Path]:
    root = shipped_folder() or Path()
    return list(dict.fromkeys(root / file for one in declared for file in one.code))


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST])
    return f"{shown} and {len(names) - _MOST} more" if len(names) > _MOST else shown


def failing(findings: Mapping[str, Sequence[Finding]], *, of_suite: bool = False) -> dict[str, MergeAssetsError]:
    """Per suite of which an evaluation would fail the error that says all reasons.

    Args:
        findings: by the name of the suite.
        of_suite: count only what is wrong with the suite itself.
    """
    found = {}
    for name, listed in findings.items():
        reasons = [one.text for one in listed if one.fails and (one.kind in _OF_SUITE or not of_suite)]
        if reasons:
            found[name] = SuiteError("; ".join(reasons))
    return dict[str, MergeAssetsError](found)
