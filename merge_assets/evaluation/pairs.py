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

from merge_assets.evaluation.headline import Headline, HeadlinePart, Term
from merge_assets.evaluation.samples import FloatArray, SuiteSamples, TaskSamples
from merge_assets.evaluation.scores import Scores, TaskScore, metric_key
from merge_assets.evaluation.statistics import Measure, Ratio

Formula = Callable[[FloatArray], FloatArray]
"""From values float64[..., parts] to one, float64[...]."""


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


def value_of(metric: str, ratio: float) -> float:
    """What lm-eval makes of a ratio of sums for a metric, with or without its filter."""
    return float(_VALUES.get(metric.partition(",")[0], _same)(np.array(ratio)))


def more_is_better(metric: str, higher_is_better: bool) -> bool:
    """Whether a larger ratio of sums is better: of log-likelihoods it is, also where the metric is a perplexity."""
    return higher_is_better or metric.partition(",")[0] in _VALUES


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
        parts: float64[documents, 2] of each ratio that the value is made of, with the stratum of each document, and the names
            of the tasks that these are of.
        value: from the ratios to the value.
        asked: per task name.
        shape: how the value is made of the tasks.
    """

    parts: Sequence[tuple[FloatArray, NDArray[np.int64], str]]
    value: Formula
    asked: Mapping[str, Asked]
    shape: str

    @property
    def cohort(self) -> str:
        """Equal for models that can be compared."""
        return " ".join([self.shape, *(f"{task}={asked.key}" for task, asked in self.asked.items())])


def sheet_of(scores: Scores, task: str | None, metric: str | None, samples: SuiteSamples) -> Sheet:
    """One model's documents of a column.

    Args:
        scores: of the model.
        task: None for the headline.
        metric: None for the headline.
        samples: those of the scores' results.

    Raises:
        UnmatchedError: the samples are not there, or do not give the value.
    """
    if not samples:
        raise UnmatchedError("no samples are kept")
    if task is not None:
        row = next(row for row in scores.tasks if (row.task, row.metric) == (task, metric))
        return _of_task(row, samples)
    terms = [(part, term) for part in scores.formula.parts if part.value is not None for term in part.terms]
    sheets = [_of_term(scores, part, term, samples) for part, term in terms]
    ends = np.cumsum([len(sheet.parts) for sheet in sheets])[:-1]

    def value(ratios: FloatArray) -> FloatArray:
        split = np.split(ratios, ends, axis=-1)
        values = [sheet.value(own) for sheet, own in zip(sheets, split, strict=True)]
        return _headline(scores.formula, np.stack(values, axis=-1))

    parts = [part for sheet in sheets for part in sheet.parts]
    asked = {task: one for sheet in sheets for task, one in sheet.asked.items()}
    made = Sheet(parts, value, asked, "; ".join(sheet.shape for sheet in sheets))
    if not sheets or not _gives(made, scores.headline):
        raise UnmatchedError("the samples of its tasks do not give the recorded headline")
    return made


def _headline(formula: Headline, values: FloatArray) -> FloatArray:
    """What a formula makes of values, float64[..., terms], in their order: :meth:`Headline.value` of many at once."""
    there = [part for part in formula.parts if part.value is not None]
    lower = np.array([term.lower for part in there for term in part.terms])
    counted = np.where(lower > 0, np.maximum(values - lower, 0) / (1 - lower), values)
    weights = [part.weight / len(part.terms) for part in there for _ in part.terms]
    found: FloatArray = counted @ np.array(weights) / sum(part.weight for part in there)
    return found


def _of_term(scores: Scores, part: HeadlinePart, term: Term, samples: SuiteSamples) -> Sheet:
    """One value of a headline: that of a task of the suite, or of a task of one of its groups."""
    row = next(row for row in scores.tasks if (row.task, row.metric) == (part.task, term.metric))
    if term.task == row.task:
        return _of_task(row, samples)
    own = {task: found for task, found in samples.get(row.result[:8], {}).items() if task == term.task}
    assert term.value is not None
    return _of_task(row.model_copy(update={"task": term.task, "value": term.value}), {row.result[:8]: own})


def measure_of(sheets: Sequence[Sheet]) -> Measure:
    """Several models' values, of sheets of one cohort."""
    first = sheets[0]
    names = [name for *_, name in first.parts]
    parts = [
        Ratio(np.stack([sheet.parts[number][0] for sheet in sheets]), strata, names.index(name))
        for number, (_, strata, name) in enumerate(first.parts)
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
    pooled = [(np.concatenate([sums for _, sums in found.values()]), np.concatenate(strata), " ".join(found))]
    apart = [(sums, np.zeros(len(sums), dtype=np.int64), task) for task, (_, sums) in found.items()]
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
