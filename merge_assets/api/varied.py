"""In which places a variant differs from its kin: other points of its sweep, other trials of the search that found it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merge_assets.errors import MergeAssetsError
from merge_assets.recipe import Recipe
from merge_assets.recipe.parameters import Misfit
from merge_assets.recipe.places import parse_path, placed
from merge_assets.workspace import Workspace
from merge_assets.yamlfile import is_free, parse_documents

_OF_ONE = frozenset({"name", "description", "group", "search", "evaluate"})
"""Keys that a candidate need not share with its search."""

_OPEN = object()
"""Stands in every place that a search fills."""


class Kin:
    """The sweeps and searches of a project.

    Args:
        workspace: the project.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._searches: list[tuple[Sequence[str], Any]] = []
        for recipe in workspace.book.searches.values():
            assert recipe.search is not None
            paths = list(recipe.search.space)
            if (emptied := _emptied(_content(recipe.source.text, recipe), paths)) is not None:
                self._searches.append((paths, emptied))

    def values(self, recipe: Recipe, text: str) -> Mapping[str, Any]:
        """The values of a variant in the places in which its kin have others; empty for one that has none.

        A recipe that is like one of a search but for the places of the search is kin to it, whoever wrote it.

        Args:
            recipe: the variant's, as the project has it now.
            text: the recipe by which the variant was made, whose values these are.
        """
        content = _content(text, recipe)
        if recipe.swept is not None:
            return _values(content, list(recipe.swept.values))
        for paths, emptied in self._searches:
            if _emptied(content, paths) == emptied:
                return _values(content, paths)
        return {}


def _content(text: str, recipe: Recipe) -> Any:
    """A recipe's text as plain data; ``None`` where it cannot be read."""
    try:
        documents = parse_documents(text, recipe.source.file)
    except MergeAssetsError:
        return None
    return documents[0].data if documents else None


def _emptied(content: Any, paths: Sequence[str]) -> Any:
    """A recipe with nothing in particular in the places; ``None`` where one of them leads nowhere."""
    if not isinstance(content, dict):
        return None
    made: Any = {key: value for key, value in content.items() if key not in _OF_ONE and not is_free(key)}
    try:
        for path in paths:
            made = placed(made, parse_path(path), _OPEN)
    except Misfit:
        return None
    return made


def _values(content: Any, paths: Sequence[str]) -> dict[str, Any]:
    found = {}
    for path in paths:
        at = content
        try:
            for part in parse_path(path):
                at = at[part]
        except (KeyError, IndexError, TypeError):
            continue
        found[path] = at
    return found
