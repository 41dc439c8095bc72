"""What others published of models, beside what was measured here of the same suite and task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_assets.evaluation.scores import Scores, TaskScore
from merge_assets.evaluation.tables import frame
from merge_assets.recipe import AVERAGE, Published

if TYPE_CHECKING:
    import pandas

NOT_MEASURED = "published by others, not measured here"


@dataclass(frozen=True)
class PublishedValue:
    """One value that others published.

    Attributes:
        model: that it is of.
        suite: whose task the benchmark is; None for a benchmark that no suite here has.
        benchmark: a task, ``average`` for the headline, or a free name.
        source: where it was published.
        published: as it was, accuracies in percent.
        measured: the same of this model here, in the unit of ``published``; None if it was not measured.
        note: what to mind of the two, or that nothing was measured.
    """

    model: str
    suite: str | None
    benchmark: str
    source: str
    published: float
    measured: float | None = None
    note: str = NOT_MEASURED

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured - self.published

    @property
    def texts(self) -> tuple[str, str, str]:
        """Published, measured and the difference for people; the last two with as many decimals as the first."""
        text = f"{self.published:g}" if self.published == round(self.published, 4) else f"{self.published:.4g}"
        decimals = max(len(text.partition(".")[2]), 1)
        if self.measured is None or self.difference is None:
            return text, "", ""
        difference = f"{self.difference:+.{decimals}f}".replace("-", "−")
        return text, f"{self.measured:.{decimals}f}", difference if float(f"{self.difference:.{decimals}f}") else "±0"


def published_values(
    tables: Mapping[str, Sequence[Published]], scores: Mapping[str, Sequence[Scores]]
) -> list[PublishedValue]:
    """All published values, each once, with what was measured of the same model, suite and task.

    Args:
        tables: by the title of the variant in whose recipe they stand.
        scores: measured here, by the model's title.
    """
    found = (value for title, each in tables.items() for table in each for value in _values(title, table, scores))
    return list(dict.fromkeys(found))


def published_beside(
    tables: Sequence[Published], scores: Sequence[Scores]
) -> dict[tuple[str, str | None, str | None], str]:
    """What others published of a model, with the difference, by the suite, task and metric that were measured; of the headline
    task and metric are None.

    Args:
        tables: of the model; those of other models are left out.
        scores: of the model.
    """
    found = {}
    for table in tables:
        for one in scores if table.model is None else ():
            for value in _values("", table, {"": scores}) if one.suite == table.suite else ():
                row = None if value.benchmark == AVERAGE else _row(one, value.benchmark)
                if value.measured is not None:
                    published, _, difference = value.texts
                    key = (one.suite, row.task if row else None, row.metric if row else None)
                    found[key] = f"{published} ({difference})"
    return found


def published_table(values: Iterable[PublishedValue]) -> pandas.DataFrame:
    """One row per value: model, suite (null for a benchmark of another name), benchmark, published, measured and difference
    (null where nothing was measured; accuracies in percent), source, note."""
    values = list(values)
    return frame(
        {
            "model": ("string", [value.model for value in values]),
            "suite": ("string", [value.suite for value in values]),
            "benchmark": ("string", [value.benchmark for value in values]),
            "published": ("Float64", [value.published for value in values]),
            "measured": ("Float64", [value.measured for value in values]),
            "difference": ("Float64", [value.difference for value in values]),
            "source": ("string", [value.source for value in values]),
            "note": ("string", [value.note or None for value in values]),
        }
    )


def _values(title: str, table: Published, scores: Mapping[str, Sequence[Scores]]) -> Iterator[PublishedValue]:
    model = table.model or title
    own = next((one for one in scores.get(model, ()) if one.suite == table.suite), None)
    for benchmark, value in table.values.items():
        measured, note = (None, NOT_MEASURED) if own is None else _measured(own, benchmark)
        yield PublishedValue(model, table.suite, benchmark, table.source, float(value), measured, note)


def _measured(scores: Scores, benchmark: str) -> tuple[float | None, str]:
    """What was measured of a benchmark, accuracies in percent, and what to mind."""
    if benchmark == AVERAGE:
        if scores.headline is None:
            return None, NOT_MEASURED
        limited = any(row.limit is not None for row in scores.tasks if row.headline)
        minds = [*([f"of {scores.part} tasks"] if scores.part else []), *(["not of all documents"] if limited else [])]
        return 100 * scores.headline, "measured " + " and ".join(minds) if minds else ""
    row = _row(scores, benchmark)
    if row is None:
        return None, NOT_MEASURED
    note = "" if row.limit is None else f"measured with {row.n} documents, not all"
    return (100 * row.value if row.is_fraction else row.value), note


def _row(scores: Scores, benchmark: str) -> TaskScore | None:
    """The one row of a task, or that of ``task:metric``; None if there is none, or no single one."""
    found = [row for row in scores.tasks if benchmark in (row.task, f"{row.task}:{row.metric}")]
    return found[0] if len(found) == 1 else None
