"""What a search is going to do: whether its space fits its recipe, there is what it asks for, and what a candidate writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_assets.api.plan import plan
from merge_assets.errors import MergeAssetsError, RecipeError, SearchError, did_you_mean
from merge_assets.plan import Plan, check_alone
from merge_assets.recipe import Choices, Objective, Recipe, Search, candidate
from merge_assets.workspace import Models, Workspace

if TYPE_CHECKING:
    from merge_assets.evaluation.suite import Suite


@dataclass(frozen=True)
class SearchPlan:
    """A search from headers alone.

    Attributes:
        search: what the recipe says.
        corners: points of the space, and the plan of each; see :func:`corners_of`.
        changed: tensors that are not the same at all corners.
        bytes_to_write: by the first candidate.
        bytes_changed: by each candidate after it: the tensors that the search changes.
    """

    search: Search
    corners: tuple[tuple[Recipe, Plan], ...]
    changed: int
    bytes_to_write: int
    bytes_changed: int


@dataclass(frozen=True)
class CheckedSearch:
    """A search of which nothing is wrong as far as the recipe and the suites tell.

    Attributes:
        recipe: with ``search``.
        search: what it says.
        suites: of its objectives.
        higher: of each objective, whether more is better.
        corners: of its space; see :func:`corners_of`.
    """

    recipe: Recipe
    search: Search
    suites: dict[str, Suite]
    higher: tuple[bool, ...]
    corners: tuple[Recipe, ...]


def plan_search(workspace: Workspace, name: str) -> SearchPlan:
    """Plan the corners of a search's space.

    Raises:
        RecipeError: there is no such search, or its space does not fit the recipe.
        SearchError: an objective is of no suite, or of no task of it.
        MergeAssetsError: a corner cannot be planned.
    """
    checked, models = checked_search(workspace, name), Models(workspace)
    planned = tuple((point, plan(workspace, point, models=models)) for point in checked.corners)
    first = {tensor.name: tensor for tensor in planned[0][1].tensors}
    same = set(first)
    for _, made in planned[1:]:
        same &= {one.name for one in made.tensors if one.name in first and first[one.name].key == one.key}
    changed = [tensor for key, tensor in first.items() if key not in same]
    return SearchPlan(
        checked.search, planned, len(changed), planned[0][1].bytes_to_write, sum(tensor.nbytes for tensor in changed)
    )


def checked_search(workspace: Workspace, name: str) -> CheckedSearch:
    """The search of this name, checked.

    Raises:
        RecipeError, SearchError: as :func:`open_search`.
    """
    recipe = workspace.book.searches.get(name)
    if recipe is None or recipe.search is None:
        for broken in workspace.book.broken:
            if broken.name == name:
                raise broken.error
        raise RecipeError(
            f"there is no search {name!r}{did_you_mean(name, workspace.book.searches)}; a recipe with the key search is one"
        )
    search = recipe.search
    asked = [(f"search.objective[{index}]", one) for index, one in enumerate(search.objective)]
    suites = {one.suite: _suite(workspace, recipe, key, one.suite) for key, one in asked if one.suite}
    if search.halving is not None:
        for name, suite in suites.items():
            if suite.confirm is None:
                raise SearchError(
                    f"{recipe.source.at('search.halving')}: search.halving: the suite {name} keeps no documents from a search; "
                    f"write confirm: 0.3, or another part of them, in {suite.file}"
                )
    higher = tuple(_higher(recipe, key, one, suites) for key, one in asked)
    corners = corners_of(workspace, recipe, search)
    for point in corners:
        check_alone(point)
    return CheckedSearch(recipe, search, suites, higher, corners)


def corners_of(workspace: Workspace, recipe: Recipe, search: Search) -> tuple[Recipe, ...]:
    """Points of a search that tell what it changes: all places at their first value, then each place at its last one."""
    space = search.space
    first, last = (
        {
            path: dimension.choices[end] if isinstance(dimension, Choices) else (dimension.low, dimension.high)[end]
            for path, dimension in space.items()
        }
        for end in (0, -1)
    )
    points = [first, *({**first, path: last[path]} for path in space)]
    return tuple(
        workspace.listed(
            candidate(recipe, number, {path: value for path, value in point.items() if search.active(path, point)})
        )
        for number, point in enumerate(points)
    )


def _suite(workspace: Workspace, recipe: Recipe, key: str, name: str) -> Suite:
    try:
        return workspace.suite_of(name, recipe)
    except MergeAssetsError as error:
        raise SearchError(f"{recipe.source.at(f'{key}.suite')}: {key}.suite: {error}") from None


def _higher(recipe: Recipe, key: str, wanted: Objective, suites: Mapping[str, Suite]) -> bool:
    """Whether more of an objective is better."""
    if wanted.suite is None:
        return False
    suite = suites[wanted.suite]
    if wanted.task is None:
        return True
    found = [one for one in suite.tasks if one.task == wanted.task and wanted.metric in (None, one.metric)]
    where = f"{recipe.source.at(key)}: {key}"
    if not found:
        listed = ", ".join(f"{one.task} {one.metric}" for one in suite.tasks)
        raise SearchError(f"{where}: the suite {suite.name} has no {wanted.label}; it has {listed}")
    if len(found) > 1:
        raise SearchError(f"{where}: the suite has several metrics of {wanted.task}; name one as metric")
    if found[0].is_proxy:
        return False
    if found[0].higher_is_better is None and not suite.in_headline(found[0]):
        raise SearchError(f"{where}: write higher_is_better for {wanted.task} in {suite.file}")
    return found[0].higher_is_better is not False
