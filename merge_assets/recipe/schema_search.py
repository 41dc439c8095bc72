"""The schema of `search`: where the best values of some places of a recipe are looked for, by what, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictFloat,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from merge_assets.recipe.fields import RecipeMapping, check_filled
from merge_assets.recipe.parameters import Misfit, shown
from merge_assets.recipe.schema_sweep import Interval, flat
from merge_assets.records import FoundTrial

MAX_TRIALS = 10_000
_MOST_OBJECTIVES = 8

Sampler = Literal["tpe", "cmaes", "gp", "nsga2", "random"]
"""Optuna's samplers: tree-structured Parzen estimators, covariance matrix adaptation, Gaussian processes, genetic selection."""

_When = dict[str, Annotated[tuple[Any, ...], AfterValidator(check_filled)]]


class Span(Interval):
    """Numbers that are tried in a place."""

    when: _When = Field(
        default={}, description="key path of another place: the values of it for which this place is filled"
    )

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


class Choices(RecipeMapping):
    """Values that are tried in a place; a list of values is the short form."""

    choices: Annotated[tuple[Any, ...], AfterValidator(check_filled)] = Field(
        description="numbers, words, lists, models: whatever may stand there"
    )
    when: _When = Field(default={}, description="as of a span")

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        return value in self.choices


Dimension = Span | Choices


class Objective(RecipeMapping):
    """What is to be best: a suite's headline, a value of one of its tasks, or the size."""

    suite: str | None = Field(default=None, min_length=1, description="name of the suite")
    task: str | None = Field(default=None, min_length=1, description="one of its tasks; left out: the headline")
    metric: str | None = Field(
        default=None, min_length=1, description="the task's metric, where the suite lists it with several"
    )
    size: Literal["parameters"] | None = Field(
        default=None, description="in the place of a suite: the number of parameters, fewer are better"
    )
    weight: StrictFloat | StrictInt | None = Field(
        default=None,
        description="factor in one sum of all objectives; left out of all: what is best by no objective alone is kept, too",
    )

    @model_validator(mode="after")
    def _whole(self) -> Objective:
        if (self.suite is None) == (self.size is None):
            raise Misfit("an objective has exactly one of suite and size")
        if self.size is not None and self.task is not None:
            raise Misfit("the size is of no task; leave it out", ("task",))
        if self.metric is not None and self.task is None:
            raise Misfit("names a metric and no task; write the task, too", ("metric",))
        return self

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return "parameters" if self.suite is None else " ".join(filter(None, (self.suite, self.task, self.metric)))


def _read_dimension(raw: Any) -> Dimension:
    if isinstance(raw, list | tuple):
        return Choices(choices=tuple(raw))
    if not isinstance(raw, dict):
        raise Misfit(f"{shown(raw)} is neither a list of values nor {{low, high}}")
    return Choices.model_validate(raw) if "choices" in raw else Span.model_validate(raw)


def _write_dimension(dimension: Dimension) -> Any:
    return dimension.model_dump(mode="json", exclude_defaults=True)


_Dimension = Annotated[
    Any,
    PlainValidator(_read_dimension),
    PlainSerializer(_write_dimension, return_type=Any),
    WithJsonSchema({"format": "[values], [choices](#choices) or a [span](#span)"}),
]


class Halving(RecipeMapping):
    """Candidates that are worse than the best so far are given up before all documents are asked."""

    steps: StrictInt = Field(
        default=3,
        ge=1,
        le=6,
        description="times that the documents are halved: 3 asks an eighth, a quarter, a half, all",
    )
    level: StrictFloat = Field(
        default=0.05, gt=0, lt=0.5, description="chance at most that one that is no worse than the best is given up"
    )

    @property
    def parts(self) -> tuple[int, ...]:
        """Of which fractions of the documents candidates are judged before all are asked: their denominators."""
        return tuple(1 << step for step in range(self.steps, 0, -1))


class Search(RecipeMapping):
    """A search for the best values of some places of a recipe; the recipe as it is written is where it starts from."""

    space: Annotated[dict[str, _Dimension], AfterValidator(check_filled)] = Field(
        description="key path: what is tried there"
    )
    objective: Annotated[tuple[Objective, ...], AfterValidator(check_filled)] = Field(
        max_length=_MOST_OBJECTIVES, description="what is to be best: one, or a list"
    )
    sampler: Sampler | None = Field(
        default=None, description="which of Optuna's samplers proposes; left out: `tpe`, or `nsga2` where several count"
    )
    trials: StrictInt = Field(default=50, ge=1, le=MAX_TRIALS, description="how many candidates are tried")
    hours: StrictFloat | StrictInt | None = Field(
        default=None, gt=0, description="no candidate is begun later than that"
    )
    documents: StrictInt | None = Field(
        default=None, ge=1, description="no candidate is begun after as many documents were asked of all together"
    )
    halving: Halving | None = Field(default=None, description="give candidates up that are worse than the best so far")
    seed: StrictInt = Field(default=0, ge=0, lt=1 << 63, description="of the sampler")
    start: tuple[dict[str, Any], ...] = Field(default=(), description="points that are tried first: key path: value")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        single = {"objective": [raw["objective"]]} if isinstance(raw.get("objective"), dict) else {}
        space = {"space": flat(raw["space"], ("low", "choices"))} if "space" in raw else {}
        return raw | single | space

    @model_validator(mode="after")
    def _whole(self) -> Search:
        for path, dimension in self.space.items():
            for other, values in dimension.when.items():
                self._check_when(path, other, values)
        for number, point in enumerate(self.start):
            for path, value in point.items():
                if path not in self.space:
                    raise Misfit(f"the space has no {path}, only {', '.join(self.space)}", ("start", number, path))
                if not self.space[path].holds(value):
                    raise Misfit(f"{shown(value)} is outside of the space", ("start", number, path))
        weighted = [one.weight is not None for one in self.objective]
        if any(weighted) and not all(weighted):
            raise Misfit("either all objectives have a weight or none", ("objective", weighted.index(False)))
        if self.halving is not None and self.directions > 1:
            raise Misfit("halving asks which of two is better: one objective, or several with weights", ("halving",))
        if self.halving is not None and any(one.suite is None for one in self.objective):
            raise Misfit("a size is of no documents; halving goes with objectives of suites", ("halving",))
        if self.sampler == "cmaes" and self.directions > 1:
            raise Misfit("cmaes has one objective; give them weights, or take nsga2 or tpe", ("sampler",))
        return self

    def _check_when(self, path: str, other: str, values: tuple[Any, ...]) -> None:
        if other not in self.space or other == path:
            raise Misfit(f"{other} is no other place of the space", ("space", path, "when", other))
        if self.space[other].when:
            raise Misfit(f"{other} has a condition itself; name what that one names", ("space", path, "when", other))
        for value in values:
            if not self.space[other].holds(value):
                raise Misfit(f"{shown(value)} is never tried in {other}", ("space", path, "when", other))

    @property
    def directions(self) -> int:
        """How many values a candidate is judged by."""
        return 1 if self.objective[0].weight is not None else len(self.objective)

    @property
    def proposer(self) -> Sampler:
        """The sampler, or the one that is taken where none is named."""
        return self.sampler or ("tpe" if self.directions == 1 else "nsga2")

    def active(self, path: str, values: Mapping[str, Any]) -> bool:
        """Whether a place is filled, given the values of those without a condition."""
        return all(values.get(other) in wanted for other, wanted in self.space[path].when.items())


class FoundBy(BaseModel):
    """Which trial of which search a recipe is.

    Attributes:
        search: name of the search.
        study: what the storage of trials calls them.
        version: of what the search found, in the store.
        trials: finished ones.
        trial: this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str
    study: str
    version: str
    trials: int
    trial: FoundTrial
