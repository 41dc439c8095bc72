"""A trial of a search becomes a recipe of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.search import OpenSearch
from merge_assets.errors import RecipeError
from merge_assets.recipe.resolved import plain_yaml
from merge_assets.workspace import Workspace
from merge_assets.yamlfile import parse_documents

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial


def promote(
    workspace: Workspace, opened: OpenSearch, trial: Trial, name: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write a trial as a recipe, with a comment that says of which search it is and what it came to.

    Args:
        workspace: whose recipes it joins.
        opened: the search.
        trial: of it.
        name: of the recipe; left out: ``SEARCH-best`` for the best one, else ``SEARCH-trial-NUMBER``.
        overwrite: replace a file that is there.

    Returns:
        The file, in the first folder of recipes.

    Raises:
        RecipeError: the file is there already, or another recipe has the name.
    """
    best = [one.number for one in opened.trials.best()]
    called = name or (
        f"{opened.recipe.name}-best" if best == [trial.number] else f"{opened.recipe.name}-trial-{trial.number}"
    )
    if not workspace.settings.recipes:
        raise RecipeError("the setting recipes names no folder; there is no place for the recipe")
    file = workspace.settings.recipes[0] / f"{called}.yaml"
    if file.exists() and not overwrite:
        raise RecipeError("is there already; --overwrite replaces it, --as takes another name", file=file)
    there = workspace.book.recipes.get(called)
    if there is not None and there.source.file != file:
        raise RecipeError(f"{called!r} is the name of a recipe in {there.source.file}; take another with --as")
    recipe = opened.candidate(trial)
    content = dict(parse_documents(recipe.source.text, file)[0].data)
    came = ", ".join(f"{label} {value:.6g}" for label, value in trial.told.get("objectives", {}).items())
    head = f"# Trial {trial.number} of the search {opened.recipe.name} ({opened.study}): {came or 'not finished'}\n"
    file.write_text(head + plain_yaml({**content, "name": called}), encoding="utf-8")
    return file
