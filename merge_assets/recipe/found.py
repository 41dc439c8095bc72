"""What searches found, as recipes: each the search's recipe with the values of a trial in their places.

What it is made of is that of the trial, whatever became of the search's file since; what it is called, shown and evaluated by
is what that file says now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from merge_assets.errors import RecipeError
from merge_assets.recipe.load import BrokenRecipe, candidate
from merge_assets.recipe.problems import explain
from merge_assets.recipe.resolved import plain_yaml
from merge_assets.recipe.schema import DESCRIPTIVE, Recipe
from merge_assets.recipe.schema_search import Choices, FoundBy
from merge_assets.records import FoundTrial, Record, SearchDetails
from merge_assets.shown import without_credentials
from merge_assets.yamlfile import is_free, parse_documents


class SearchResult(Record):
    """What the store has of a search.

    Attributes:
        version: in the store.
        details: what was found.
    """

    version: str
    details: SearchDetails


def found_recipes(
    searches: Mapping[str, Recipe], results: Iterable[SearchResult]
) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    """The recipes that searches have found, by name, and those that cannot be read."""
    recipes: dict[str, Recipe] = {}
    broken = []
    for result in results:
        search = searches.get(result.details.search)
        for trial in result.details.found if search is not None else ():
            assert search is not None
            try:
                recipes[trial.name] = _recipe(search, result, trial)
            except RecipeError as error:
                broken.append(BrokenRecipe(trial.name, search.source.file, error))
    return recipes, broken


def naming(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe of a search as it is written, and candidates that together name every model that one may be made of.

    Values that fit the recipe by themselves alone are left out, as trials with them fail.
    """
    search = recipe.search
    assert search is not None
    first = {path: one.choices[0] if isinstance(one, Choices) else one.low for path, one in search.space.items()}
    made = [recipe]
    for path, dimension in search.space.items():
        for value in dimension.choices if isinstance(dimension, Choices) else ():
            if not isinstance(value, str | list | tuple | dict):
                continue  # a number names no model
            point = {**first, path: value, **{other: wanted[0] for other, wanted in dimension.when.items()}}
            filled = {one: value for one, value in point.items() if search.active(one, point)}
            try:
                made.append(candidate(recipe, len(made) - 1, filled))
            except RecipeError:
                continue
    return tuple(made)


def said_of(found: FoundBy) -> list[str]:
    """Of which search a recipe is, what its trial came to and how it stands beside the models that it is made of: a sentence
    each."""
    trial = found.trial
    came = ", ".join(f"{label} {value:.6g}" for label, value in trial.objectives.items())
    told = [f"Trial {trial.number} of {found.trials} of the search {found.search} ({found.study}): {came}."]
    for one in trial.beside:
        seen = f"{one.searched:+.4g} on the documents that the search saw"
        unseen = "none were kept from it" if one.confirmed is None else f"{one.confirmed:+.4g} on those that it did not"
        told.append(f"Beside {one.model}, by {one.objective}: {one.verdict}; {seen}, {unseen}.")
    return told


def _recipe(search: Recipe, result: SearchResult, trial: FoundTrial) -> Recipe:
    source, details = search.source, result.details
    document = source.parsed()
    written: dict[str, Any] = {key: value for key, value in document.data.items() if not is_free(key)}
    made = {key: value for key, value in _content(trial, search).items() if key not in DESCRIPTIVE}
    told = {key: value for key, value in written.items() if key in DESCRIPTIVE - {"search", "name"}}
    found = FoundBy(search=search.name, study=details.study, version=result.version, trials=details.trials, trial=trial)
    content = {"name": trial.name, **told, **made}
    text = "".join(f"# {line}\n" for line in said_of(found)) + plain_yaml(content)
    own = source.model_copy(update={"text": without_credentials(text)})
    try:
        return Recipe.model_validate({**content, "source": own, "found": found})
    except ValidationError as error:
        raise explain(error, Recipe, document, source.file, f"; in what the search {search.name} found") from None


def _content(trial: FoundTrial, search: Recipe) -> Mapping[str, Any]:
    documents = parse_documents(trial.recipe, search.source.file)
    if len(documents) != 1 or not isinstance(documents[0].data, dict):
        raise RecipeError(f"what the search {search.name} found is no recipe", file=search.source.file)
    return documents[0].data
