"""Errors of a plan, with the recipe's file, line and key path."""

from __future__ import annotations

from merge_assets.errors import PlanError, RecipeError
from merge_assets.recipe import Recipe
from merge_assets.reference import ModelReference


def plan_error(recipe: Recipe, key: str, message: str) -> PlanError:
    """An error at a key path of a recipe, such as ``slices[0].sources[1].layer_range``."""
    try:
        place: object = recipe.source.at(key)
    except (OSError, IndexError, RecipeError):  # the file was moved or edited since it was read
        place = recipe.source.file
    return PlanError(message, file=str(place), key=key)


def first_mention(recipe: Recipe, reference: ModelReference) -> str:
    """Key path at which a recipe names a model first."""
    return next((key for key, mentioned in recipe.mentions() if mentioned == reference), "models")


def carrying(name: str) -> str:
    """What a recipe writes so that tensors called like this one are carried."""
    word = name.rpartition(".layers.")[2].partition(".")[2] or name
    return f"`missing: [{{filter: {word}, value: carry}}]`"
