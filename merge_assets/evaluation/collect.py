"""The scores of a suite, read out of the results of its tasks."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.errors import SuiteError
from merge_assets.evaluation.failures import Failed, TaskFailure
from merge_assets.evaluation.flaws import summed
from merge_assets.evaluation.headline import Headline, HeadlinePart, Term, measured
from merge_assets.evaluation.results import TaskResult
from merge_assets.evaluation.scores import Scores, TaskScore, metric_key
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import SuiteTask


def collect_scores(suite: Suite, results: Sequence[TaskResult | Failed], *, model: str, fingerprint: str) -> Scores:
    """The scores of a suite from the results of its tasks.

    Args:
        suite: the suite.
        results: one result per entry of ``suite.tasks``, in its order, or why there is none.
        model: the model's title.
        fingerprint: the checkpoint's fingerprint.

    Raises:
        SuiteError: a task has no such metric, or a headline value is no fraction.
    """
    found = [_row(suite, i, entry, result) for i, (entry, result) in enumerate(zip(suite.tasks, results, strict=True))]
    rows = tuple(row for row in found if isinstance(row, TaskScore))
    there = [result for result in results if isinstance(result, TaskResult)]
    formula = _formula(suite, rows, results)
    return Scores(
        model=model,
        fingerprint=fingerprint,
        suite=suite.name,
        suite_digest=suite.digest,
        tasks=rows,
        failures=tuple(row for row in found if isinstance(row, TaskFailure)),
        headline=formula.value(formula.terms).value,
        headline_stderr=formula.stderr,
        formula=formula,
        seed=suite.seed,
        versions=_versions(there),
        trust_remote_code=any(result.key.trust_remote_code for result in there),
        otherwise=suite.otherwise,
    )


def _formula(suite: Suite, rows: Sequence[TaskScore], results: Sequence[TaskResult | Failed]) -> Headline:
    """The headline's formula, with what was measured."""
    of_task = {entry.task: result for entry, result in zip(suite.tasks, results, strict=True)}
    found: dict[tuple[str, str], tuple[float, float | None]] = {
        (row.task, row.metric): (row.value, row.stderr) for row in rows
    }
    parts = []
    for i, declared in enumerate(suite.headline_parts):
        where, result = f"{suite.file}: headline[{i}]", of_task[declared.task]
        members = list(result.samples) if isinstance(result, TaskResult) else []
        try:
            terms = declared.terms(suite.metrics_of(declared.task), members)
        except ValueError as error:
            raise SuiteError(f"{where}.{error}") from None
        if declared.spread and isinstance(result, TaskResult):
            found |= _of_subtasks(where, terms, result)
        parts.append(measured(HeadlinePart(task=declared.task, weight=declared.weight, terms=terms), found))
    return Headline(parts=tuple(parts))


def _of_subtasks(
    where: str, terms: Sequence[Term], result: TaskResult
) -> dict[tuple[str, str], tuple[float, float | None]]:
    """The values of tasks of a group that have one, and their standard errors."""
    found = {}
    for term in terms:
        metrics = result.metrics.get(term.task, {})
        key = metric_key(term.metric, metrics)
        value = None if key is None else metrics[key]
        if key is None or value is None:
            continue
        if not 0 <= value <= 1:
            raise SuiteError(f"{where}: {term.metric} of {term.task} is {value:.6g}, not a fraction in 0..1")
        name, filter_name = key.split(",", 1)
        found[term.task, term.metric] = value, metrics.get(f"{name}_stderr,{filter_name}")
    return found


def _versions(results: Sequence[TaskResult]) -> dict[str, str]:
    packages = {package for result in results for package in result.versions}
    return {
        package: ", ".join(dict.fromkeys(r.versions[package] for r in results if package in r.versions))
        for package in sorted(packages)
    }


def _row(suite: Suite, index: int, entry: SuiteTask, result: TaskResult | Failed) -> TaskScore | TaskFailure:
    where = f"{suite.file}: tasks[{index}]"
    if isinstance(result, Failed):
        return result.of(suite, entry)
    metrics = _metrics_of(entry.task, result)
    key = metric_key(entry.metric, metrics)
    if key is None:
        known = ", ".join(sorted(name for name in metrics if "_stderr," not in name)) or "none"
        raise SuiteError(f"{where}.metric: {entry.task} has no single metric {entry.metric!r} (it has: {known})")
    name, filter_name = key.split(",", 1)
    value = metrics[key]
    if value is None:
        return Failed(f"{entry.metric} is not a finite number; the model's outputs are not finite").of(suite, entry)
    is_in_headline = suite.in_headline(entry)
    if is_in_headline and not 0 <= value <= 1:
        raise SuiteError(
            f"{where}.headline: {entry.metric} of {entry.task} is {value:.6g}, not a fraction in 0..1; "
            f"{_leave_out(suite)}"
        )
    higher = entry.higher_is_better
    if higher is None:
        higher = result.higher_is_better.get(entry.task, {}).get(name, True)
    if is_in_headline and not higher:
        raise SuiteError(f"{where}.headline: lower {entry.metric} is better; {_leave_out(suite)}")
    return TaskScore(
        task=entry.task,
        metric=entry.metric,
        value=value,
        stderr=metrics.get(f"{name}_stderr,{filter_name}"),
        shots=result.shots.get(entry.task, next(iter(result.shots.values()), 0)),
        limit=result.key.limit,
        n=sum(count.effective for count in result.samples.values()),
        higher_is_better=higher,
        headline=is_in_headline,
        task_version=result.task_versions.get(entry.task, ""),
        task_digest=result.key.task_digest,
        result=result.key.digest,
        seconds=result.seconds,
        made=result.circumstances,
        flaws=summed(result.flaws.values()),
        disagreements=result.disagreements,
    )


def _leave_out(suite: Suite) -> str:
    return "set headline: false" if isinstance(suite.headline, str) else "leave it out of the formula under headline"


def _metrics_of(task: str, result: TaskResult) -> dict[str, float | None]:
    if task in result.metrics:
        return result.metrics[task]
    return next(iter(result.metrics.values())) if len(result.metrics) == 1 else {}
