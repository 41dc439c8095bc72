"""The schema of `sweep`: which values take which places of a recipe, so that one recipe is many.

A place is a key path of the recipe, as errors spell it: ``parameters.t``, ``models[1].parameters.weight``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from merge_assets.recipe.fields import RecipeMapping, check_filled
from merge_assets.recipe.parameters import Misfit, shown

MAX_POINTS = 1000
"""Recipes that one sweep makes."""

_DIGITS = 12
"""Significant digits of a computed value: steps of 0.1 are 0.3, not 0.30000000000000004."""


def _number(raw: Any) -> int | float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError(f"{shown(raw)} is not a finite number")
    return raw


Number = Annotated[int | float, PlainValidator(_number), WithJsonSchema({"type": "number"})]


class Range(RecipeMapping):
    """Values from one number to another; whole numbers where both ends and all steps are."""

    low: Number = Field(description="the first value")
    high: Number = Field(description="the last value; with `step`, none is above it")
    count: StrictInt | None = Field(default=None, ge=2, le=MAX_POINTS, description="how many values; or `step`")
    step: Number | None = Field(default=None, description="from one value to the next; or `count`")
    log: StrictBool = Field(default=False, description="equal ratios in the place of equal steps; with `count`")

    @model_validator(mode="after")
    def _whole(self) -> Range:
        _check_ends(self.low, self.high, log=self.log)
        if (self.count is None) == (self.step is None):
            raise Misfit("a range has exactly one of count and step")
        if self.step is not None and self.log:
            raise Misfit("a logarithmic range has a count, not a step", ("step",))
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise Misfit(f"{self.step} leads from {self.low} to no second value up to {self.high}", ("step",))
        return self

    def values(self) -> tuple[int | float, ...]:
        """The values, ascending."""
        if self.step is not None:
            number = math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1
            found = (self.low + self.step * place for place in range(min(number, MAX_POINTS + 1)))
            whole = isinstance(self.low, int) and isinstance(self.step, int)
        else:
            assert self.count is not None
            found = (self._at(place / (self.count - 1)) for place in range(self.count))
            ends = isinstance(self.low, int) and isinstance(self.high, int) and not self.log
            whole = ends and (self.high - self.low) % (self.count - 1) == 0
        return tuple(_rounded(value, whole=whole) for value in found)

    def _at(self, share: float) -> float:
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)


class Interval(RecipeMapping):
    """Where a value is drawn from, evenly."""

    low: Number = Field(description="the lowest value")
    high: Number = Field(description="the highest value")
    log: StrictBool = Field(default=False, description="evenly on a logarithmic scale")
    whole: StrictBool = Field(default=False, description="whole numbers, both ends included")

    @model_validator(mode="after")
    def _whole(self) -> Interval:
        _check_ends(self.low, self.high, log=self.log)
        for key in ("low", "high") if self.whole else ():
            if not isinstance(value := getattr(self, key), int):
                raise Misfit(f"{value} is no whole number, as whole: true has them", (key,))
        return self

    def at(self, share: float) -> int | float:
        """The value so far into the interval, 0 to 1."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        return max(self.low, min(self.high, round(value))) if self.whole else _rounded(value, digits=6)


def _check_ends(low: float, high: float, *, log: bool) -> None:
    if not low < high:
        raise Misfit(f"nothing lies between {low} and {high}; low is below high", ("high",))
    if log and low <= 0:
        raise Misfit(f"a logarithmic scale has no place for {low}; write a low above 0", ("low",))


def _rounded(value: float, *, whole: bool = False, digits: int = _DIGITS) -> int | float:
    return round(value) if whole else float(f"{value:.{digits}g}")


def _read_values(raw: Any) -> tuple[Any, ...] | Range:
    if isinstance(raw, dict):
        return Range.model_validate(raw)
    if not isinstance(raw, list | tuple):
        raise Misfit(f"{shown(raw)} is neither a list of values nor a range; write [a, b, …] or {{low, high, count}}")
    return tuple(check_filled(raw))


def _read_choices(raw: Any) -> tuple[Any, ...] | Interval:
    return Interval.model_validate(raw) if isinstance(raw, dict) else tuple(check_filled(raw or ()))


def _write(values: Any) -> Any:
    return list(values) if isinstance(values, tuple) else values.model_dump(mode="json", exclude_defaults=True)


def flat(raw: Any, ends: tuple[str, ...] = ("low",)) -> Any:
    """Nested mappings as one of key paths: ``{parameters: {t: […]}}`` is ``{parameters.t: […]}``.

    Args:
        raw: anything; what is no mapping stays as it is.
        ends: keys of the mappings that are values.
    """
    return dict(_paths(raw, "", ends)) if isinstance(raw, Mapping) else raw


def _paths(raw: Mapping[str, Any], prefix: str, ends: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, Mapping) and not any(end in value for end in ends):
            yield from _paths(value, f"{prefix}{key}.", ends)
        else:
            yield f"{prefix}{key}", value


_Values = Annotated[
    Any,
    PlainValidator(_read_values),
    PlainSerializer(_write, return_type=Any),
    WithJsonSchema({"format": "[values] or a [range](#range)"}),
]
_Choices = Annotated[
    Any,
    PlainValidator(_read_choices),
    PlainSerializer(_write, return_type=Any),
    WithJsonSchema({"format": "[values] or an [interval](#interval)"}),
]


class RandomPoints(RecipeMapping):
    """Points that are drawn; more of them begin with the same ones."""

    points: StrictInt = Field(ge=1, le=MAX_POINTS, description="how many are drawn; what is drawn twice is one point")
    seed: StrictInt = Field(default=0, ge=0, lt=1 << 63, description="of the draw")
    space: Annotated[dict[str, _Choices], AfterValidator(check_filled)] = Field(
        description="key path: a list of which one is drawn, or an interval"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        return {**raw, "space": flat(raw["space"])} if isinstance(raw, dict) and "space" in raw else raw


class Sweep(RecipeMapping):
    """Many recipes in one: at every point, values take their places in the rest of the recipe."""

    grid: Annotated[dict[str, _Values], AfterValidator(check_filled)] | None = Field(
        default=None, description="key path: values; every combination. Written without `grid` if it is all there is"
    )
    zip: Annotated[dict[str, _Values], AfterValidator(check_filled)] | None = Field(
        default=None, description="key path: values; the first of each, the second of each, and so on"
    )
    random: RandomPoints | None = Field(default=None, description="points that are drawn")
    table: str | None = Field(
        default=None,
        min_length=1,
        description="a CSV file beside the recipe: key paths in its first line, a point in each of the others",
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not raw:
            raise Misfit("write key paths with their values, such as {parameters.t: [0.3, 0.5]}")
        if not cls.model_fields.keys() & raw.keys():
            raw = {"grid": raw}
        return raw | {key: flat(raw[key]) for key in ("grid", "zip") if key in raw}

    @model_validator(mode="after")
    def _whole(self) -> Sweep:
        counts = {path: len(values_of(values)) for path, values in (self.zip or {}).items()}
        for path, count in counts.items():
            first = next(iter(counts))
            if count != counts[first]:
                raise Misfit(f"has {count} values, and {first} has {counts[first]}; they go together", ("zip", path))
        return self


class Swept(BaseModel):
    """Which point of a sweep a recipe is.

    Attributes:
        sweep: name of the sweep.
        number: which of its points, from 0.
        values: what the sweep put where, by key path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: str
    number: int
    values: dict[str, Any]


def values_of(values: tuple[Any, ...] | Range) -> tuple[Any, ...]:
    """The values of one place of a grid."""
    return values.values() if isinstance(values, Range) else values
