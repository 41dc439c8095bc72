"""Scores: one model's results on one suite, as plain data with a strict JSON form."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.results import Circumstances, StoredResult, TaskResult
from merge_assets.evaluation.suite import Suite, SuiteTask
from merge_assets.markup import render
from merge_assets.records import Record, RecordFile

_FRACTIONS = re.compile(
    r"acc|acc_(norm|bytes|mutual_info|all).*|.*_acc|exact_match|em|f1|mc[12]|pass@\d+|mcc|brier_score"
)


class TaskScore(Record):
    """One row: a task's metric.

    Attributes:
        metric: as the suite names it, with the filter where it names one.
        value: in lm-eval's unit: fractions are 0..1, perplexities as they are.
        stderr: standard error in the unit of ``value``; None where lm-eval computes none.
        shots: few-shot examples used.
        limit: documents asked for; None means all.
        n: documents evaluated, summed over the members of a group.
        headline: whether the value enters the headline.
        task_version: version from the task's metadata; empty for groups without one.
        task_digest: digest of the task's files.
        result: digest of the key of the task result that this row was read from.
        seconds: wall time of the task.
        made: by what, on what and with which documents it was measured.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    shots: int
    limit: int | float | None
    n: int = Field(ge=0)
    higher_is_better: bool
    headline: bool
    task_version: str
    task_digest: str
    result: str
    seconds: float = Field(ge=0)
    made: Circumstances = Field(default_factory=Circumstances)

    @property
    def is_fraction(self) -> bool:
        """Whether people read the value in percent."""
        return self.headline or bool(_FRACTIONS.fullmatch(self.metric.split(",")[0]))

    @property
    def text(self) -> str:
        """The value for people: percent with one decimal, or four significant digits."""
        return format_value(self.value, self.is_fraction)


class ShownScores(NamedTuple):
    """Scores as a table of texts.

    Attributes:
        heads: task, metric, shots, n, value, its standard error, and one difference per parent.
        rows: one per task.
        average: value of the headline and what comes after it; empty without a headline.
    """

    heads: list[str]
    rows: list[list[str]]
    average: list[str]


class Scores(RecordFile):
    """One model's results on one suite.

    Attributes:
        model: the model's title.
        fingerprint: the checkpoint's content digest.
        suite: the suite's name.
        suite_digest: digest of what the suite evaluates.
        tasks: one row per task, in the suite's order.
        headline: mean of the headline rows' values, a fraction in 0..1; None when the suite has none.
        headline_stderr: standard error of ``headline``, tasks taken as independent; None when a row has none.
        seed: seed of numpy, torch and the few-shot sampler.
        versions: of lm_eval, transformers, torch and datasets; several where tasks were measured with several.
        trust_remote_code: whether code that comes with the checkpoint was run where it asks for that.
    """

    model: str
    fingerprint: str
    suite: str
    suite_digest: str
    tasks: tuple[TaskScore, ...] = Field(min_length=1)
    headline: float | None
    headline_stderr: float | None
    seed: int
    versions: dict[str, str]
    trust_remote_code: bool = False

    @property
    def digest(self) -> str:
        """sha256 of the content without the model's title and wall times."""
        content = self.model_dump(mode="json", exclude={"model"})
        for row in content["tasks"]:
            del row["seconds"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Strict JSON (no NaN, no Infinity)."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Scores:
        """Reads what :meth:`to_json` wrote.

        Raises:
            EvaluationError: the text is not scores.
        """
        try:
            return cls.of(json.loads(text))
        except ValueError as error:
            raise EvaluationError(f"scores: {error}; evaluate the model again") from None

    def to_markdown(self, parents: Sequence[Scores] = ()) -> str:
        """A table of the rows, with one column of differences per parent that has scores on the same suite."""
        return render("merge_assets.evaluation", "scores.md.j2", **self.shown(parents)._asdict())

    def shown(self, parents: Sequence[Scores] = ()) -> ShownScores:
        """The cells of :meth:`to_markdown` as text."""
        parents = [parent for parent in parents if parent.suite == self.suite]
        heads = ["task", "metric", "shots", "n", "value", "± stderr", *(f"Δ {parent.model}" for parent in parents)]
        rows = [
            [
                row.task,
                row.metric if row.higher_is_better else f"{row.metric} ↓",
                str(row.shots),
                str(row.n),
                row.text,
                "" if row.stderr is None else format_value(row.stderr, row.is_fraction),
                *(format_delta(_difference(row, parent), row.is_fraction, row.value) for parent in parents),
            ]
            for row in self.tasks
        ]
        if self.headline is None:
            return ShownScores(heads, rows, [])
        theirs = [None if parent.headline is None else self.headline - parent.headline for parent in parents]
        stderr = "" if self.headline_stderr is None else format_value(self.headline_stderr, True)
        average = [format_value(self.headline, True), stderr, *(format_delta(each, True) for each in theirs)]
        return ShownScores(heads, rows, average)

    def write(self, directory: Path, results: Sequence[StoredResult] = ()) -> None:
        """Writes ``scores.json``, ``scores.md`` and, per task result, its JSON and samples below ``tasks/``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "scores.json").write_text(self.to_json(), encoding="utf-8")
        (directory / "scores.md").write_text(self.to_markdown(), encoding="utf-8")
        for stored in results:
            target = directory / "tasks" / f"{_slug(stored.result.key.task)}-{stored.result.key.digest[:8]}"
            target.mkdir(parents=True, exist_ok=True)
            for file in stored.directory.iterdir():
                (target / file.name).write_bytes(file.read_bytes())


def collect_scores(suite: Suite, results: Sequence[TaskResult], *, model: str, fingerprint: str) -> Scores:
    """The scores of a suite from the results of its tasks.

    Args:
        suite: the suite.
        results: one result per entry of ``suite.tasks``, in its order.
        model: the model's title.
        fingerprint: the checkpoint's fingerprint.

    Raises:
        EvaluationError: a task has no such metric, its value is not finite, or a headline value is no fraction.
    """
    rows = tuple(
        _row(suite, i, entry, result) for i, (entry, result) in enumerate(zip(suite.tasks, results, strict=True))
    )
    values = [row.value for row in rows if row.headline]
    errors = [row.stderr for row in rows if row.headline and row.stderr is not None]
    complete = bool(values) and len(errors) == len(values)
    return Scores(
        model=model,
        fingerprint=fingerprint,
        suite=suite.name,
        suite_digest=suite.digest,
        tasks=rows,
        headline=math.fsum(values) / len(values) if values else None,
        headline_stderr=math.sqrt(math.fsum(e * e for e in errors)) / len(errors) if complete else None,
        seed=suite.seed,
        versions=_versions(results),
        trust_remote_code=any(result.key.trust_remote_code for result in results),
    )


def _versions(results: Sequence[TaskResult]) -> dict[str, str]:
    packages = {package for result in results for package in result.versions}
    return {
        package: ", ".join(dict.fromkeys(r.versions[package] for r in results if package in r.versions))
        for package in sorted(packages)
    }


def metric_key(metric: str, metrics: dict[str, float | None]) -> str | None:
    """The ``metric,filter`` key that a suite's metric means, or None when there is none or no single one."""
    if "," in metric:
        return metric if metric in metrics else None
    if f"{metric},none" in metrics:
        return f"{metric},none"
    found = [key for key in metrics if key.split(",")[0] == metric]
    return found[0] if len(found) == 1 else None


def format_value(value: float, is_fraction: bool) -> str:
    """Percent with one decimal for a fraction, else four significant digits."""
    return f"{100 * value:.1f}" if is_fraction else f"{value:#.4g}".rstrip(".")


def format_delta(difference: float | None, is_fraction: bool, value: float = 1.0) -> str:
    """A signed difference with as many decimals as ``value`` is shown with, or as many digits where that is shown with a power
    of ten; empty for None."""
    if difference is None:
        return ""
    shown = format_value(value, is_fraction)
    decimals = len(shown.partition(".")[2])
    form = "+#.4g" if "e" in shown else f"+.{decimals}f"
    text = f"{100 * difference if is_fraction else difference:{form}}".rstrip(".")
    if not float(text):
        return "±0"
    return f"−{text[1:]}" if text.startswith("-") else text


def _row(suite: Suite, index: int, entry: SuiteTask, result: TaskResult) -> TaskScore:
    where = f"{suite.file}: tasks[{index}]"
    metrics = _metrics_of(entry.task, result)
    key = metric_key(entry.metric, metrics)
    if key is None:
        known = ", ".join(sorted(name for name in metrics if "_stderr," not in name)) or "none"
        raise EvaluationError(f"{where}.metric: {entry.task} has no single metric {entry.metric!r}; it has: {known}")
    name, filter_name = key.split(",", 1)
    value = metrics[key]
    if value is None:
        raise EvaluationError(
            f"{where}: {entry.metric} of {entry.task} is not a finite number; the model's outputs are not finite"
        )
    if entry.headline and not 0 <= value <= 1:
        raise EvaluationError(
            f"{where}.headline: {entry.metric} of {entry.task} is {value:.6g}, not a fraction in 0..1; "
            "set headline: false"
        )
    higher = entry.higher_is_better
    if higher is None:
        higher = result.higher_is_better.get(entry.task, {}).get(name, True)
    if entry.headline and not higher:
        raise EvaluationError(f"{where}.headline: lower {entry.metric} is better; set headline: false")
    return TaskScore(
        task=entry.task,
        metric=entry.metric,
        value=value,
        stderr=metrics.get(f"{name}_stderr,{filter_name}"),
        shots=result.shots.get(entry.task, next(iter(result.shots.values()), 0)),
        limit=result.key.limit,
        n=sum(count.effective for count in result.samples.values()),
        higher_is_better=higher,
        headline=entry.headline,
        task_version=result.task_versions.get(entry.task, ""),
        task_digest=result.key.task_digest,
        result=result.key.digest,
        seconds=result.seconds,
        made=result.circumstances,
    )


def _metrics_of(task: str, result: TaskResult) -> dict[str, float | None]:
    if task in result.metrics:
        return result.metrics[task]
    return next(iter(result.metrics.values())) if len(result.metrics) == 1 else {}


def _difference(row: TaskScore, parent: Scores) -> float | None:
    for other in parent.tasks:
        if (other.task, other.metric) == (row.task, row.metric):
            return row.value - other.value
    return None


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._") or "task"
