"""What the store has of searches, and by what it would follow from others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from merge_assets.errors import RecipeError, StoreError
from merge_assets.identity import search_line
from merge_assets.plan.model import digest_of
from merge_assets.recipe import BrokenRecipe, Recipe, SearchResult
from merge_assets.records import SearchDetails
from merge_assets.store import ArtifactStore

if TYPE_CHECKING:
    from merge_assets.evaluation.suite import Suite

_BUDGET = frozenset({"trials", "hours", "documents", "start"})
"""Keys of a search that say how long it goes on and where it begins, not what is looked for."""


def study_code(recipe: Recipe, suites: Mapping[str, Suite]) -> str:
    """Key of what a search looks for, the bytes of its models aside: trials of equal ones with equal models are the same.

    Args:
        recipe: with ``search``.
        suites: of its objectives, by name.
    """
    assert recipe.search is not None
    return digest_of(
        {
            "recipe": recipe.digest,
            "search": recipe.search.model_dump(mode="json", exclude=set(_BUDGET)),
            "suites": {name: suite.digest for name, suite in suites.items()},
            "confirm": {name: suite.confirm for name, suite in suites.items()},
        }
    )


def search_code(recipe: Recipe, suites: Mapping[str, Suite]) -> str:
    """Key of what says what a search finds, the bytes of its models aside."""
    assert recipe.search is not None
    budget = recipe.search.model_dump(mode="json", include=set(_BUDGET))
    return digest_of({"study": study_code(recipe, suites), "budget": budget})


def results_of(
    store: ArtifactStore, searches: Iterable[Recipe]
) -> tuple[tuple[SearchResult, ...], tuple[BrokenRecipe, ...]]:
    """What the store has of searches, and those of which it cannot be told."""
    results, unread = [], []
    for search in searches:
        try:
            artifact = store.current(search_line(search.name))
        except StoreError as error:
            said = RecipeError(f"what this search found cannot be read: {error}", file=search.source.file)
            unread.append(BrokenRecipe(search.name, search.source.file, said))
            continue
        if artifact is not None:
            results.append(SearchResult(version=artifact.version, details=artifact.manifest.described(SearchDetails)))
    return tuple(results), tuple(unread)
