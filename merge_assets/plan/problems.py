"""Errors of a plan, with the recipe's file, line and key path."""

from __future__ import annotations

from merge_assets.errors import PlanError, RecipeError
from merge_assets.recipe import Recipe


def plan_error(recipe: Recipe, key: str, message: str) -> PlanError:
    """An error at a key path of a recipe, such as ``slices[0].sources[1].layer_range``."""
    try:
        place: object = recipe.source.at(key)
    except (OSError, IndexError, RecipeError):  # the file was moved or edited since it was read
        place = recipe.source.file
    return PlanError(message, file=str(place), key=key)
