"""The models that a merge is made of and that are merges themselves, found down to real checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from merge_assets.errors import HubError, NoConfigError, RecipeError
from merge_assets.importing.lineage import Ancestor
from merge_assets.importing.mending import Imported
from merge_assets.reference import ModelReference

MAX_DEPTH = 12
"""Generations that are looked at."""
MAX_MODELS = 60
"""Models of the Hub that are asked for their config."""

Reader = Callable[[ModelReference], tuple[Imported, str, str] | None]
"""Model -> its config, the name of its repository and where the config was found; ``None`` if it has no file that may hold one.
Raises RecipeError and HubError."""


@dataclass
class Lineage:
    """What was found of the parents of a merge.

    Attributes:
        ancestors: each behind those that it is made of.
        left: why a model was left as a checkpoint that may be a merge, one sentence each.
    """

    ancestors: list[Ancestor] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def ancestors_of(imported: Imported, name: str, read: Reader) -> Lineage:
    """The merges that recipes are made of, and so on, within bounds.

    Args:
        imported: the recipes.
        name: of the repository that they are of; no other recipe is called so.
        read: the config of a model.
    """
    search = _Search(read, {name, *(recipe.name for recipe in imported.recipes)})
    search.look(imported, ())
    deep = [f"{model} was not looked at: {MAX_DEPTH} generations are imported at most" for model in search.unseen()]
    return Lineage(search.ancestors, [*search.left, *deep])


class _Search:
    def __init__(self, read: Reader, taken: set[str]) -> None:
        self._read = read
        self._taken = taken
        self._seen: set[ModelReference] = set()
        self.ancestors: list[Ancestor] = []
        self.left: list[str] = []
        self.too_deep: dict[ModelReference, None] = {}

    def unseen(self) -> list[ModelReference]:
        """What was only met behind the last generation."""
        return [model for model in self.too_deep if model not in self._seen]

    def look(self, imported: Imported, path: tuple[ModelReference, ...]) -> None:
        """Find the ancestors of a config that the models of ``path`` lead to."""
        for model in _parents(imported):
            if model in path:
                self.left.append(
                    f"{model} is made of itself ({' → '.join(map(str, (*path, model)))}); it stays a checkpoint"
                )
            elif len(path) >= MAX_DEPTH:
                self.too_deep[model] = None
            elif model not in self._seen:
                self._seen.add(model)
                self._take(model, path)

    def _take(self, model: ModelReference, path: tuple[ModelReference, ...]) -> None:
        if len(self._seen) > MAX_MODELS:
            self.left.append(f"{model} was not looked at: {MAX_MODELS} models are asked for at most")
            return
        try:
            found = self._read(model)
        except NoConfigError:
            return  # a checkpoint that was trained, or whose card does not say how it was made
        except (RecipeError, HubError) as error:
            self.left.append(f"{model} stays a checkpoint: {error}")
            return
        if found is None:
            return
        imported, repository, origin = found
        name = repository if len(imported.recipes) == 1 and not _is_named(imported) else imported.recipes[-1].name
        if name in self._taken:
            name = f"{model.path.replace('/', '--')}"[:100]
        own = {recipe.name for recipe in imported.recipes[:-1]}
        if self._taken & {name, *own} or (_is_named(imported) and name != imported.recipes[-1].name):
            self.left.append(f"{model} stays a checkpoint: another recipe is called {name}, too")
            return
        self._taken |= {name, *own}
        self.look(imported, (*path, model))
        self.ancestors.append(Ancestor(model, imported, f"{model}: {origin}", name))


def _parents(imported: Imported) -> Iterator[ModelReference]:
    own = {recipe.name for recipe in imported.recipes}
    models = dict.fromkeys(reference.model for recipe in imported.recipes for reference in recipe.references())
    yield from (model for model in models if model.looks_like_hub_id and model.path not in own)


def _is_named(imported: Imported) -> bool:
    return any(line.startswith("name:") for line in imported.text.splitlines())
