"""What may be built without being asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from merge_assets.errors import CheckpointError
from merge_assets.recipe import Recipe, RecipeBook
from merge_assets.reference import ModelReference
from merge_assets.workspace.names import Names
from merge_assets.workspace.workspace import Workspace


class Automation:
    """Which recipes of a workspace automation may build, and which searches it may run, as models lie when it is made.

    Attributes:
        needs_hub: by recipe, whether building it takes the Hub, for itself or for what it is made of. A recipe of a model that
            is nowhere, itself or through others, is not in it: it cannot be built.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._settings = workspace.settings
        self.needs_hub = _needs_hub(workspace.book, workspace.names)

    def allows(self, recipe: Recipe) -> bool:
        """Whether automation may build a recipe, or run its search; one that needs the Hub must be enabled. What a search found
        is allowed where the search is."""
        name = recipe.name if recipe.found is None else recipe.found.search
        needs_hub = self.needs_hub.get(name)
        return needs_hub is not None and self._settings.is_automated(name, needs_hub)


def _needs_hub(book: RecipeBook, names: Names) -> Mapping[str, bool]:
    needs: dict[str, bool] = {}
    on_hub: dict[ModelReference, bool] = {}
    named = [(name, book.recipes[name].references()) for name in book.order()]
    named += [(name, _named_by(points, names)) for name, points in book.searched.items()]
    for name, references in named:
        found = []
        try:
            for reference in references:
                parent = book.resolve(reference)
                if parent is not None:
                    found.append(needs[parent.name])
                if reference not in on_hub:
                    on_hub[reference] = names.uses_hub(reference)
                found.append(on_hub[reference])
        except (CheckpointError, KeyError):  # of this recipe, or of one that it is made of
            continue
        needs[name] = any(found)
    return needs


def _named_by(points: Sequence[Recipe], names: Names) -> tuple[ModelReference, ...]:
    """What a search names as it is written, and what of the rest that its candidates name is somewhere: else they fail."""
    found = dict.fromkeys(points[0].references())
    for reference in dict.fromkeys(one for point in points[1:] for one in point.references()):
        with suppress(CheckpointError):
            names.uses_hub(reference)
            found[reference] = None
    return tuple(found)
