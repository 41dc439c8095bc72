"""The class that a recipe's variant is loaded as, where that is another than its models'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_assets.architecture.relabel import relabelled
from merge_assets.errors import CheckpointError
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import Recipe


def with_architecture(recipe: Recipe, config: Mapping[str, Any], donor: object) -> tuple[Mapping[str, Any], list[str]]:
    """The config that a variant has, and a sentence for each key that another class leaves out or has written.

    Args:
        recipe: may name another class.
        config: of the class that the donor has.
        donor: in words, for errors.

    Raises:
        PlanError: if the classes are not known to compute the same.
    """
    wanted = recipe.architecture
    if wanted is None:
        return config, []
    try:
        made, told = relabelled(config, wanted.load_as, wanted.without)
    except CheckpointError as error:
        raise plan_error(recipe, "architecture", f"{donor}: {error}") from None
    return made, [f"architecture {wanted.load_as}: {sentence}" for sentence in told]
