"""The schema of results that others published."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from merge_assets.recipe.fields import Filled, RecipeMapping, Shown
from merge_assets.recipe.parameters import shown

AVERAGE = "average"
"""The name of a suite's headline among published values."""


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is no number; write it as it was published, accuracies in percent")
    return value


_Value = Annotated[Any, AfterValidator(_number), WithJsonSchema({"type": "number"})]


class Published(RecipeMapping):
    """One line of a table that others published; nothing of it is measured here."""

    source: Annotated[Shown, Field(min_length=1, max_length=500)] = Field(
        description="where the values were published: an address or a citation"
    )
    values: Annotated[dict[str, _Value], Filled] = Field(
        max_length=500,
        description="value by task of the suite (`task`, or `task:metric` where it has several) or by name of a benchmark, "
        "as published: accuracies in percent; `average` is the suite's headline",
    )
    suite: str | None = Field(
        default=None,
        min_length=1,
        description="suite whose tasks these are; left out: benchmarks that no suite here has",
    )
    model: Annotated[Shown, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="model that the values are of; left out: this variant"
    )
