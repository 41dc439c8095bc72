"""What the schema has a place for and nothing does yet: recipes that ask for it are refused, not built without it."""

from __future__ import annotations

from merge_assets.errors import PlanError
from merge_assets.recipe.schema import Recipe


def check_built(recipe: Recipe) -> None:
    """Refuse a recipe that asks for what is not built yet.

    Raises:
        PlanError: names the file, the line, the key and what to do.
    """
    if recipe.publish is not None:
        raise _unbuilt(recipe, "publish", "pushing to the Hub is not built yet; leave it out")


def _unbuilt(recipe: Recipe, key: str, message: str) -> PlanError:
    return PlanError(message, file=recipe.source.at(key), key=key)
