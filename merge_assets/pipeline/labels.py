"""Words of a recipe that Dagster has to accept: it says itself what it refuses."""

import dagster as dg

from merge_assets.errors import RecipeError, in_one_line
from merge_assets.pipeline.keys import group_name, variant_key
from merge_assets.recipe import Recipe


def is_cron(text: str) -> bool:
    """Whether Dagster accepts a cron line."""
    try:
        dg.ScheduleDefinition(name="probe", cron_schedule=text, job_name="probe")
    except Exception:  # of Dagster, or of the library that reads cron lines for it
        return False
    return True


def check_labels(recipe: Recipe, group: str) -> None:
    """Let Dagster itself say what it refuses of the words that a person chose.

    Raises:
        RecipeError: if it refuses any.
    """
    if not (recipe.tags or recipe.owners or group):
        return
    try:
        dg.AssetSpec(
            variant_key(recipe.name),
            group_name=group_name("variants", group),
            tags=recipe.tags,
            owners=list(recipe.owners) or None,
        )
    except dg.DagsterError as error:
        raise RecipeError(f"Dagster refuses its group, tags or owners: {in_one_line(error)}") from error
