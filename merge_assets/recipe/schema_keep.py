"""The schema of `keep`: which of its versions a recipe asks `merge-assets store gc` to leave in the store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from merge_assets.recipe.parameters import Misfit, shown

By = Literal["best", "last"]

MAX_KEPT = 1000
_RULE = re.compile(rf"({'|'.join(get_args(By))}) +([1-9][0-9]{{0,3}})")


@dataclass(frozen=True)
class KeepRule:
    """How many versions stay, and by what they are chosen: ``best 3``, ``last 5``.

    Attributes:
        by: ``best``, by their scores, or ``last``, by when they were made.
        count: how many.
    """

    by: By
    count: int

    def __str__(self) -> str:
        return f"{self.by} {self.count}"


def _read(raw: Any) -> tuple[KeepRule, ...] | None:
    if raw is None:
        return None
    if isinstance(raw, list | tuple):
        rules = tuple(_rule(one, (place,)) for place, one in enumerate(raw))
        for place, rule in enumerate(rules):
            if any(rule.by == other.by for other in rules[:place]):
                raise Misfit(f"{rule.by} is given twice; keep one", (place,))
        if not rules:
            raise Misfit("is empty; write best N, last N or both, or leave it out")
        return rules
    return (_rule(raw, ()),)


def _rule(raw: Any, path: tuple[int, ...]) -> KeepRule:
    match = _RULE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if match is None or int(match[2]) > MAX_KEPT:
        raise Misfit(f"{shown(raw)} is no rule; write best N or last N, with N from 1 to {MAX_KEPT}, or a list", path)
    return KeepRule("best" if match[1] == "best" else "last", int(match[2]))


Keep = Annotated[
    tuple[KeepRule, ...] | None,
    PlainValidator(_read),
    PlainSerializer(lambda rules: rules and [str(rule) for rule in rules], return_type=Any),
    WithJsonSchema({"format": "`best N`, `last N` or a list of these"}),
]
