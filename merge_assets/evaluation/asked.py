"""Suites as recipes have their own variants asked: the same tasks, under other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from merge_assets.errors import RecipeError
from merge_assets.evaluation.suite import Suite
from merge_assets.recipe import EvaluateEntry, Recipe
from merge_assets.recipe.problems import problem_path, problem_text

_KEYS = frozenset(EvaluateEntry.model_fields) - {"suite"}


def as_asked(suite: Suite, recipe: Recipe) -> Suite:
    """A suite as a recipe has its variant asked it; the suite itself where the recipe sets nothing, or what it says anyway.

    Raises:
        RecipeError: what the recipe sets does not go together with what the suite says.
    """
    index, given = next(
        ((i, entry.given()) for i, entry in enumerate(recipe.evaluate or ()) if entry.suite == suite.name), (0, {})
    )
    now = {key: _over(suite, key, value) for key, value in given.items()}
    before = {name: getattr(suite, name) for name in Suite.model_fields}
    try:
        made = Suite.model_validate({**before, **now})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = ".".join(map(str, (f"evaluate[{index}]", *problem_path(problem))))
        text = f"with what {suite.file} says, {problem_text(problem, Suite)}"
        raise RecipeError(text, file=recipe.source.at(path), key=path) from None
    otherwise = _differing(_flat(suite), _flat(made))
    if not otherwise:
        return suite
    _ = suite.digest  # so that both have the digests of the same files
    made._task_digests.update(suite._task_digests)
    made._otherwise.update(otherwise)
    return made


def _over(suite: Suite, key: str, value: Any) -> Any:
    """A value in the place of the suite's: mappings key by key, none as where a suite has no such key."""
    if value is None:
        return Suite.model_fields[key].get_default()
    own = getattr(suite, key)
    if isinstance(value, Mapping):
        return {**own.model_dump(exclude_none=True), **value}
    return own if key == "batch_size" and (own or 1) == value else value


def _flat(suite: Suite) -> dict[str, Any]:
    """How models are loaded and asked, as JSON; what is set in a mapping has a name of its own."""
    found: dict[str, Any] = {}
    for key, value in suite.model_dump(mode="json", include=set(_KEYS)).items():
        found |= {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if before.get(key) != value}
