"""Scores: one model's results on one suite, as plain data with a strict JSON form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.disagreement import Disagreement
from merge_assets.evaluation.failures import TaskFailure, all_failures
from merge_assets.evaluation.flaws import Flaws, told
from merge_assets.evaluation.headline import Headline
from merge_assets.evaluation.otherwise import set_otherwise
from merge_assets.evaluation.results import Circumstances, StoredResult
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
        flaws: with how many documents something was wrong, summed over the members of a group.
        disagreements: where in a text the model is least of the mind of the one that it was compared with.
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
    flaws: Flaws = Field(default_factory=Flaws)
    disagreements: tuple[Disagreement, ...] = ()

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
        rows: one per task, those that failed last.
        average: value of the headline, of how many tasks it is where some failed, and what comes after it; empty without a
            headline.
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
        tasks: one row per task that has a value, in the suite's order.
        failures: the other tasks, in the suite's order.
        headline: what the suite's formula makes of the values that there are, a fraction in 0..1; None without any.
        headline_stderr: standard error of ``headline``, tasks taken as independent; None where it does not follow from theirs.
        formula: of ``headline``, with the raw value of every task that it asks for, and those that count.
        seed: seed of numpy, torch and the few-shot sampler.
        versions: of lm_eval, transformers, torch and datasets; several where tasks were measured with several.
        trust_remote_code: whether code that comes with the checkpoint was run where it asks for that.
        otherwise: what the recipe of the model set otherwise than the suite says, and to what.
    """

    model: str
    fingerprint: str
    suite: str
    suite_digest: str
    tasks: tuple[TaskScore, ...]
    failures: tuple[TaskFailure, ...] = ()
    headline: float | None
    headline_stderr: float | None
    formula: Headline = Field(default_factory=Headline)
    seed: int
    versions: dict[str, str]
    trust_remote_code: bool = False
    otherwise: dict[str, Any] = Field(default_factory=dict)

    @property
    def part(self) -> str:
        """``5 of 6`` where the headline is that of some of its parts; empty if it is of all."""
        _, found, of = self.formula.value(self.formula.terms)
        return f"{found} of {of}" if found < of else ""

    @property
    def missing(self) -> frozenset[tuple[str, str]]:
        """The tasks and metrics that the headline lacks."""
        return frozenset((failure.task, failure.metric) for failure in self.failures if failure.headline)

    @property
    def failed(self) -> str:
        """Which tasks have no value and why, for people; empty if all have one."""
        return all_failures(self.failures, len(self.tasks) + len(self.failures))

    @property
    def notes(self) -> list[str]:
        """What to mind of the values: other settings than the suite's, tasks without one, documents with which something was
        wrong."""
        otherwise = [set_otherwise(self.otherwise)] if self.otherwise else []
        failed = [f"{failure.task} failed: {failure.reason}" for failure in self.failures]
        return [
            *otherwise,
            *failed,
            *dict.fromkeys(note for row in self.tasks for note in told(row.task, row.n, row.flaws)),
        ]

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

    def to_markdown(self) -> str:
        """A table of the rows."""
        apart = [one.cells(row.task) for row in self.tasks for one in row.disagreements]
        texts = {"parts": self.parts, "notes": self.notes, "apart": apart}
        return render("merge_assets.evaluation", "scores.md.j2", **self.shown()._asdict(), **texts)

    def shown(self) -> ShownScores:
        """The cells of :meth:`to_markdown` as text."""
        heads = ["task", "metric", "shots", "n", "value", "± stderr"]
        rows = [
            [
                row.task,
                row.metric if row.higher_is_better else f"{row.metric} ↓",
                str(row.shots),
                str(row.n),
                row.text,
                "" if row.stderr is None else format_value(row.stderr, row.is_fraction),
            ]
            for row in self.tasks
        ]
        rows += [[one.task, one.metric, "", "", f"failed: {one.reason}", ""] for one in self.failures]
        if self.headline is None:
            return ShownScores(heads, rows, [])
        stderr = "" if self.headline_stderr is None else format_value(self.headline_stderr, True)
        value = format_value(self.headline, True) + (f" ({self.part})" if self.part else "")
        return ShownScores(heads, rows, [value, stderr])

    @property
    def parts(self) -> list[list[str]]:
        """Of a headline that is no plain mean, each part as text: the task, its raw value, what that counts as, its weight."""
        if self.formula.is_average:
            return []
        return [
            [
                part.task,
                *("" if value is None else format_value(value, True) for value in (part.raw, part.value)),
                f"{part.weight:g}",
            ]
            for part in self.formula.parts
        ]

    def write(self, directory: Path, results: Sequence[StoredResult] = ()) -> None:
        """Writes ``scores.json``, ``scores.md`` and, per task result, its JSON and samples below ``tasks/``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "scores.json").write_text(self.to_json(), encoding="utf-8")
        (directory / "scores.md").write_text(self.to_markdown(), encoding="utf-8")
        for stored in results:
            target = directory / "tasks" / stored.folder_name
            target.mkdir(parents=True, exist_ok=True)
            for file in stored.directory.iterdir():
                (target / file.name).write_bytes(file.read_bytes())


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
