"""The documents of two evaluations, matched: what each adds to a value, in one order for all models.

A document is told by the hash of its content and of its target. Several with one hash are matched among themselves in the order
in which they were asked. Two models are compared where their tasks' files, data, prompts and documents are the same; by
position alone nothing is.

That the documents give the value that is recorded is checked of each model: what this file takes a metric to be is not trusted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merge_assets.evaluation.samples import FloatArray, SuiteSamples, TaskSamples
from merge_assets.evaluation.scores import Scores, TaskScore, metric_key
from merge_assets.evaluation.statistics import Measure, Ratio

Formula = Callable[[FloatArray], FloatArray]
"""From values float64[..., parts] to one, float64[...]."""
Headline = Callable[[Scores], Formula]
"""How a suite's headline follows from the values of its headline rows, in their order."""


def mean_of_tasks(scores: Scores) -> Formula:
    """The headline that is a plain mean."""
    return _mean


def _mean(values: FloatArray) -> FloatArray:
    found: FloatArray = values.mean(axis=-1)
    return found


def _perplexity(ratios: FloatArray) -> FloatArray:
    found: FloatArray = np.exp(-ratios)
    return found


def _bits(ratios: FloatArray) -> FloatArray:
    return -ratios / math.log(2)


def _same(ratios: FloatArray) -> FloatArray:
    return ratios


_VALUES: Mapping[str, Formula] = {
    "perplexity": _perplexity,
    "word_perplexity": _perplexity,
    "byte_perplexity": _perplexity,
    "bits_per_byte": _bits,
}
"""What lm-eval makes of a ratio of sums; of others, nothing."""


class UnmatchedError(ValueError):
    """Documents cannot be matched; the text says why."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What one task asked: digests of its files and data, and its documents, sorted."""

    files: str
    data: str
    documents: NDArray[np.bytes_]

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.files} {self.data} ".encode() + self.documents.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Sheet:
    """One model's value of one column, by documents.

    Attributes:
        parts: float64[documents, 2] of each ratio that the value is made of, with the stratum of each document.
        value: from the ratios to the value.
        asked: per task name.
        shape: how the value is made of the tasks.
    """

    parts: Sequence[tuple[FloatArray, NDArray[np.int64]]]
    value: Formula
    asked: Mapping[str, Asked]
    shape: str

    @property
    def cohort(self) -> str:
        """Equal for models that can be compared."""
        return " ".join([self.shape, *(f"{task}={asked.key}" for task, asked in self.asked.items())])


def sheet_of(scores: Scores, task: str | None, metric: str | None, samples: SuiteSamples, headline: Headline) -> Sheet:
    """One model's documents of a column.

    Args:
        scores: of the model.
        task: None for the headline.
        metric: None for the headline.
        samples: those of the scores' results.
        headline: how the headline follows from the tasks.

    Raises:
        UnmatchedError: the samples are not there, or do not give the value.
    """
    if not samples:
        raise UnmatchedError("no samples are kept")
    if task is not None:
        row = next(row for row in scores.tasks if (row.task, row.metric) == (task, metric))
        return _of_task(row, samples)
    sheets = [_of_task(row, samples) for row in scores.tasks if row.headline]
    formula, ends = headline(scores), np.cumsum([len(sheet.parts) for sheet in sheets])[:-1]

    def value(ratios: FloatArray) -> FloatArray:
        split = np.split(ratios, ends, axis=-1)
        return formula(np.stack([sheet.value(own) for sheet, own in zip(sheets, split, strict=True)], axis=-1))

    parts = [part for sheet in sheets for part in sheet.parts]
    asked = {task: one for sheet in sheets for task, one in sheet.asked.items()}
    made = Sheet(parts, value, asked, "; ".join(sheet.shape for sheet in sheets))
    if not _gives(made, scores.headline):
        raise UnmatchedError("the samples of its tasks do not give the recorded headline")
    return made


def measure_of(sheets: Sequence[Sheet]) -> Measure:
    """Several models' values, of sheets of one cohort."""
    first = sheets[0]
    parts = [
        Ratio(np.stack([sheet.parts[number][0] for sheet in sheets]), strata)
        for number, (_, strata) in enumerate(first.parts)
    ]
    return Measure(parts, first.value)


def why_unmatched(one: Sheet, other: Sheet) -> str:
    """Why two models' documents of a column are not the same."""
    for task in dict.fromkeys([*one.asked, *other.asked]):
        if task not in one.asked or task not in other.asked:
            return f"{task} was asked of one of them alone"
        a, b = one.asked[task], other.asked[task]
        if a.files != b.files:
            return f"the files of {task} differ"
        if not np.array_equal(a.documents, b.documents):
            same = len(np.intersect1d(a.documents, b.documents))
            return f"of {len(a.documents)} and {len(b.documents)} documents of {task}, {same} are the same"
        if a.data != b.data:
            return f"the prompts of {task} differ"
    return "the value is not made in the same way of the tasks"


def _of_task(row: TaskScore, samples: SuiteSamples) -> Sheet:
    tasks = samples.get(row.result[:8], {})
    if not any(len(found) for one in tasks.values() for found in one.documents.values()):
        raise UnmatchedError(f"no samples of {row.task} are kept")
    name = row.metric.partition(",")[0]
    value = _VALUES.get(name, _same)
    found = {task: _sorted(row, task, one) for task, one in sorted(tasks.items())}
    asked = {
        task: Asked(row.task_digest, row.made.data.get(task, ""), documents) for task, (documents, _) in found.items()
    }
    strata = [np.full(len(documents), number) for number, (documents, _) in enumerate(found.values())]
    pooled = [(np.concatenate([sums for _, sums in found.values()]), np.concatenate(strata))]
    apart = [(sums, np.zeros(len(sums), dtype=np.int64)) for _, sums in found.values()]
    ways = (
        Sheet(pooled, lambda ratios: value(ratios[..., 0]), asked, f"{row.task} {row.metric}"),
        Sheet(apart, lambda ratios: _mean(value(ratios)), asked, f"{row.task} {row.metric}, mean of tasks"),
    )
    for sheet in ways:
        if _gives(sheet, row.value):
            return sheet
    raise UnmatchedError(f"{row.metric} of {row.task} does not follow from its samples one by one")


def _sorted(row: TaskScore, task: str, samples: TaskSamples) -> tuple[NDArray[np.bytes_], FloatArray]:
    """A task's documents in the order of their hashes, with what each adds."""
    key = metric_key(row.metric, dict.fromkeys(samples.sums))
    if key is None:
        raise UnmatchedError(f"{row.metric} of {task} does not follow from its samples one by one")
    documents, sums = samples.documents[key.rpartition(",")[2]], samples.sums[key]
    if not np.isfinite(sums).all() or not (sums[:, 1] > 0).all():
        raise UnmatchedError(
            f"{row.metric} of {int((~np.isfinite(sums)).any(axis=1).sum())} documents of {task} is no number"
        )
    order = np.argsort(documents, kind="stable")
    return documents[order], sums[order]


def _gives(sheet: Sheet, recorded: float | None) -> bool:
    value = float(measure_of([sheet]).values[0])
    return recorded is not None and math.isclose(value, recorded, rel_tol=1e-6, abs_tol=1e-9)
