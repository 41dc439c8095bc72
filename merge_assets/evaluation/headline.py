"""Headlines: the one number of a suite, a formula over what its tasks measured.

A headline is the weighted mean of parts, a part the plain mean of terms: metrics of one task, or of every task of a group. A
term is a raw value, or one normalised between chance and 1 as Open LLM Leaderboard v2 does it: with ``lower`` = 1/choices,
max(raw − lower, 0) / (1 − lower).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from merge_assets.errors import did_you_mean
from merge_assets.records import Record

Choices = Annotated[int, Field(ge=2)]
"""Answers among which a question chooses."""


UNION_MEMBERS = frozenset({"headline as a word", "headline as parts", "choices of all", "choices of each"})
"""What pydantic calls the forms of a key; no part of the path that people know."""


class DeclaredPart(BaseModel):
    """One part of a headline, as a suite declares it: the mean of its metrics and tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    task: str = Field(min_length=1, description="one of the suite's tasks")
    metrics: tuple[str, ...] | None = Field(
        None, min_length=1, strict=False, description="of those that the suite lists for the task; null means all"
    )
    subtasks: bool = Field(False, description="the plain mean over all tasks of the group, not the group's own value")
    choices: (
        Annotated[
            Annotated[Choices, Tag("choices of all")] | Annotated[dict[str, Choices], Tag("choices of each")],
            Discriminator(lambda value: f"choices of {'each' if isinstance(value, Mapping) else 'all'}"),
        ]
        | None
    ) = Field(
        None,
        description="normalise between 1/choices and 1; with a number for each task of a group, the plain mean over these",
    )
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="in the mean of all parts")

    @model_validator(mode="after")
    def _one_way(self) -> DeclaredPart:
        if self.subtasks and isinstance(self.choices, dict):
            raise ValueError("choices of each task say already that the mean is over these; remove subtasks")
        return self

    @property
    def spread(self) -> bool:
        """Whether each task of a group counts by itself."""
        return self.subtasks or isinstance(self.choices, dict)

    def terms(self, metrics: Sequence[str], members: Sequence[str]) -> tuple[Term, ...]:
        """What this part is the mean of.

        Args:
            metrics: those that the suite lists for the task.
            members: the tasks of the group, if it is one; empty where they are not known.

        Raises:
            ValueError: the group has other tasks; the text begins with the key.
        """
        if self.spread:
            self._require(members)
        tasks = members if self.spread else (self.task,)
        return tuple(
            Term(task=task, metric=metric, lower=self._lower(task))
            for metric in self.metrics or metrics
            for task in tasks
        )

    def _lower(self, task: str) -> float:
        choices = self.choices[task] if isinstance(self.choices, dict) else self.choices
        return 1 / choices if choices else 0.0

    def _require(self, members: Sequence[str]) -> None:
        if list(members) == [self.task]:
            raise ValueError(f"subtasks: {self.task} is one task and no group; remove this key")
        if not isinstance(self.choices, dict) or not members:
            return
        if unknown := [name for name in self.choices if name not in members]:
            raise ValueError(f"choices: {self.task} has no task {unknown[0]!r}; it has: {', '.join(members)}")
        if missing := [name for name in members if name not in self.choices]:
            raise ValueError(f"choices: {', '.join(missing)} of {self.task} has no number of choices here; add it")


DeclaredHeadline = Annotated[
    Annotated[Literal["average"], Tag("headline as a word")]
    | Annotated[tuple[DeclaredPart, ...], Field(min_length=1, strict=False), Tag("headline as parts")],
    Discriminator(lambda value: f"headline as {'a word' if isinstance(value, str) else 'parts'}"),
]


def require_listed(parts: Sequence[DeclaredPart], listed: Mapping[str, Sequence[str]]) -> None:
    """See that a formula is of what a suite lists.

    Args:
        parts: the formula.
        listed: the metrics of each task.

    Raises:
        ValueError: it is not; the text begins with the key.
    """
    seen: set[tuple[str, str]] = set()
    for i, part in enumerate(parts):
        known = listed.get(part.task)
        if known is None:
            hint = did_you_mean(part.task, listed) or f"; there are: {', '.join(listed)}"
            raise ValueError(f"headline[{i}].task: {part.task!r} is none of the suite's tasks{hint}")
        for metric in part.metrics or known:
            if metric not in known:
                raise ValueError(
                    f"headline[{i}].metrics: tasks lists no {metric!r} for {part.task}; there are: {', '.join(known)}"
                )
            if (part.task, metric) in seen:
                raise ValueError(f"headline[{i}]: {metric} of {part.task} enters the headline twice")
            seen.add((part.task, metric))


class Term(Record):
    """One value that a headline is made of.

    Attributes:
        task: of lm-eval; a task of the suite or of one of its groups.
        metric: as the suite names it.
        lower: the value by chance, which counts as 0; 0 leaves values as they are.
        value: what was measured, raw; None if nothing was.
    """

    task: str
    metric: str
    lower: float = Field(0.0, ge=0, lt=1)
    value: float | None = None

    def normalised(self, value: float) -> float:
        """What counts of a raw value: a fraction in 0..1."""
        return max(value - self.lower, 0.0) / (1 - self.lower) if self.lower else value


class HeadlinePart(Record):
    """The mean of terms, with its weight in the headline.

    Attributes:
        task: of the suite.
        value: the mean of the terms, normalised where they are; None if one of them was not measured.
        stderr: standard error of ``value``; None where it does not follow from those of the terms: one has none, one is at
            chance or below, where the formula has a kink, or two are of the same documents.
    """

    task: str
    weight: float = Field(1.0, gt=0)
    terms: tuple[Term, ...]
    value: float | None = None
    stderr: float | None = None

    @property
    def raw(self) -> float | None:
        """The mean of the terms as they were measured."""
        return _mean([term.value for term in self.terms])

    @property
    def is_plain(self) -> bool:
        """Whether it is one value as it was measured."""
        return len(self.terms) == 1 and not self.terms[0].lower

    def mean(self, values: Mapping[tuple[str, str], float | None]) -> float | None:
        """Its value by raw values per task and metric; None where one is missing."""
        found = [(term, values.get((term.task, term.metric))) for term in self.terms]
        return _mean([None if raw is None else term.normalised(raw) for term, raw in found])


class HeadlineValue(NamedTuple):
    """A headline, and of how many of its parts.

    Attributes:
        value: None if no part is there.
        found: parts that are there.
        of: all parts.
    """

    value: float | None
    found: int
    of: int


class Headline(Record):
    """A formula with the tasks of groups named, and the values that it was applied to."""

    parts: tuple[HeadlinePart, ...] = ()

    @property
    def is_average(self) -> bool:
        """Whether it is the plain mean of values as they were measured."""
        return all(part.is_plain and part.weight == 1 for part in self.parts)

    def value(self, values: Mapping[tuple[str, str], float | None]) -> HeadlineValue:
        """The headline by raw values, those measured or others, such as resampled ones.

        Args:
            values: raw value per task (of the suite, or of a group) and metric as the suite names it, as in ``terms``.

        Returns:
            The weighted mean of the parts that are there; a part is there when all of its values are.
        """
        found = [(part.weight, mean) for part in self.parts if (mean := part.mean(values)) is not None]
        return HeadlineValue(_weighted(found), len(found), len(self.parts))

    @property
    def terms(self) -> dict[tuple[str, str], float | None]:
        """The raw value that was measured, per task and metric that the formula asks for."""
        return {(term.task, term.metric): term.value for part in self.parts for term in part.terms}

    @property
    def stderr(self) -> float | None:
        """Standard error of the headline, tasks taken as independent; None where that of a part is not known, or a task is in
        several parts."""
        there = [part for part in self.parts if part.value is not None]
        errors = [(part.weight, part.stderr) for part in there if part.stderr is not None]
        tasks = [task for part in there for task in {term.task for term in part.terms}]
        if not errors or len(errors) < len(there) or len(set(tasks)) < len(tasks):
            return None
        return math.sqrt(math.fsum((weight * error) ** 2 for weight, error in errors)) / math.fsum(w for w, _ in errors)


def measured(part: HeadlinePart, found: Mapping[tuple[str, str], tuple[float, float | None]]) -> HeadlinePart:
    """A part with what was measured.

    Args:
        part: with terms.
        found: raw value and its standard error, per task and metric.
    """
    values = {key: value for key, (value, _) in found.items()}
    terms = tuple(term.model_copy(update={"value": values.get((term.task, term.metric))}) for term in part.terms)
    errors = [_error(term, found) for term in part.terms]
    known = [error for error in errors if error is not None]
    distinct = len({term.task for term in terms}) == len(terms)
    stderr = math.sqrt(math.fsum(e * e for e in known)) / len(known) if known and len(known) == len(errors) else None
    update = {"terms": terms, "value": part.mean(values), "stderr": stderr if distinct else None}
    return part.model_copy(update=update)


def _error(term: Term, found: Mapping[tuple[str, str], tuple[float, float | None]]) -> float | None:
    value, stderr = found.get((term.task, term.metric), (0.0, None))
    linear = not term.lower or value > term.lower
    return stderr / (1 - term.lower) if stderr is not None and linear else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _weighted(values: Sequence[tuple[float, float]]) -> float | None:
    if not values:
        return None
    return math.fsum(weight * value for weight, value in values) / math.fsum(weight for weight, _ in values)
