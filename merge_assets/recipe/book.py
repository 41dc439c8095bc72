"""Every recipe of a project, and how they refer to each other.

A broken file never takes others down: it is listed in ``broken`` with its error. Recipes that share a name, that ask
for what is not built yet, that stand on a cycle, or that use a broken recipe are broken too, because none of them can
be built.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from merge_assets.errors import RecipeError
from merge_assets.recipe.load import BrokenRecipe, read_file
from merge_assets.recipe.schema import Recipe
from merge_assets.recipe.unbuilt import check_built
from merge_assets.reference import ModelReference

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class RecipeBook:
    """The usable recipes by name, sorted, and the broken ones.

    Attributes:
        recipes: usable recipes; every recipe that one of them names is usable too.
        broken: the others, with their errors, sorted by file and name.
    """

    recipes: Mapping[str, Recipe]
    broken: list[BrokenRecipe] = field(default_factory=list)

    @classmethod
    def load(cls, folders: Iterable[Path | str]) -> RecipeBook:
        """Read every ``*.yaml`` and ``*.yml`` under ``folders``.

        Files and folders whose name starts with ``_`` or ``.`` are skipped. A folder that does not exist is listed
        as broken.
        """
        found: list[Recipe] = []
        broken: list[BrokenRecipe] = []
        seen: set[Path] = set()
        for folder in map(Path, folders):
            if not folder.is_dir():
                error = RecipeError(
                    "the folder of recipes does not exist; create it or change the setting recipes", file=folder
                )
                broken.append(BrokenRecipe(folder.name, folder, error))
                continue
            for file in _files(folder):
                if (real := file.resolve()) in seen:
                    continue
                seen.add(real)
                for entry in read_file(file):
                    if isinstance(entry, Recipe):
                        found.append(entry)
                    else:
                        broken.append(entry)
        recipes, twins = _split_twins(found)
        recipes, unbuilt = _split_unbuilt(recipes)
        recipes, cyclic = _split_cycles(recipes)
        broken += [*twins, *unbuilt, *cyclic]
        recipes, orphans = _split_orphans(recipes, broken)
        everything = sorted([*broken, *orphans], key=lambda entry: (str(entry.file), entry.name))
        return cls(dict(sorted(recipes.items())), everything)

    def resolve(self, reference: ModelReference) -> Recipe | None:
        """The recipe that ``reference`` names, or ``None``. A reference with a revision never names a recipe."""
        return self.recipes.get(reference.path) if reference.revision is None else None

    def parents(self, name: str) -> list[str]:
        """Names of the recipes that recipe ``name`` uses as models, in order of mention."""
        return _parents(self.recipes[name], self.recipes)

    def folded(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """The recipes that are not stored and that ``recipe`` is made of, directly or through each other, deepest first."""
        found: dict[str, Recipe] = {}
        for reference in recipe.references():
            inner = self.resolve_folded(reference)
            if inner is not None:
                found |= {deeper.name: deeper for deeper in (*self.folded(inner), inner)}
        return tuple(found.values())

    def inputs(self, recipe: Recipe) -> tuple[ModelReference, ...]:
        """Every model whose files ``recipe`` is made of: its references, with those of recipes that are not stored
        replaced by their own."""
        found: dict[ModelReference, None] = {}
        for reference in recipe.references():
            inner = self.resolve_folded(reference)
            found |= dict.fromkeys((reference,) if inner is None else self.inputs(inner))
        return tuple(found)

    def consumers(self, name: str) -> list[str]:
        """Names of the stored recipes that recipe ``name``, which is not stored, is folded into."""
        stored = (recipe for recipe in self.recipes.values() if recipe.materialize)
        return [recipe.name for recipe in stored if any(inner.name == name for inner in self.folded(recipe))]

    def resolve_folded(self, reference: ModelReference) -> Recipe | None:
        """The recipe that ``reference`` names, if that is one that is not stored."""
        recipe = self.resolve(reference)
        return None if recipe is None or recipe.materialize else recipe

    def order(self) -> list[str]:
        """Every recipe's name, each after the recipes it uses; by name where that leaves a choice."""
        sorter = TopologicalSorter({name: self.parents(name) for name in self.recipes})
        sorter.prepare()
        order: list[str] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += ready
            sorter.done(*ready)
        return order

    def descendants(self, name: str) -> list[str]:
        """Names of the recipes that use recipe ``name``, directly or through others, in build order."""
        reached = {name: None}
        for other in self.order():
            if any(parent in reached for parent in self.parents(other)):
                reached[other] = None
        return list(reached)[1:]


def not_stored(name: str, consumers: Sequence[str]) -> str:
    """Why a recipe cannot be built into the store, and what to do.

    Args:
        name: the recipe, which has ``materialize: false``.
        consumers: the stored recipes that it is folded into.
    """
    inside = f"build what it is folded into ({', '.join(consumers)})" if consumers else "no stored recipe is made of it"
    return (
        f"{name} is not stored (materialize: false), so there is nothing to build; {inside}, "
        f"or write it to a folder with `merge-assets merge {name} OUT`"
    )


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith(("_", ".")):
                yield Path(root, name)


def _named(recipe: Recipe) -> dict[str, str]:
    """What could be the name of a recipe -> key path of its first mention."""
    named: dict[str, str] = {}
    for key, reference in recipe.mentions():
        if reference.revision is None:
            named.setdefault(reference.path, key)
    return named


def _parents(recipe: Recipe, recipes: Mapping[str, Recipe]) -> list[str]:
    return [name for name in _named(recipe) if name in recipes]


def _broken(recipe: Recipe, message: str, key: str) -> BrokenRecipe:
    source = recipe.source
    return BrokenRecipe(recipe.name, source.file, RecipeError(message, file=source.at(key), key=key))


def _split_twins(found: list[Recipe]) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    by_name: dict[str, list[Recipe]] = {}
    for recipe in found:
        by_name.setdefault(recipe.name, []).append(recipe)
    broken: list[BrokenRecipe] = []
    for name, recipes in by_name.items():
        for recipe in recipes if len(recipes) > 1 else ():
            others = ", ".join(str(other.source.file) for other in recipes if other is not recipe)
            broken.append(_broken(recipe, f"{name!r} is also the name of a recipe in {others}; rename one", "name"))
    return {name: recipes[0] for name, recipes in by_name.items() if len(recipes) == 1}, broken


def _split_unbuilt(recipes: dict[str, Recipe]) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    broken: list[BrokenRecipe] = []
    for name, recipe in recipes.items():
        try:
            check_built(recipe)
        except RecipeError as error:
            broken.append(BrokenRecipe(name, recipe.source.file, error))
    gone = {entry.name for entry in broken}
    return {name: recipe for name, recipe in recipes.items() if name not in gone}, broken


def _split_cycles(recipes: dict[str, Recipe]) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    parents = {name: _parents(recipe, recipes) for name, recipe in recipes.items()}
    # Peeling off recipes without open parents leaves the cycles and what is below them, usually nothing.
    suspects = dict(parents)
    while peeled := [name for name, above in suspects.items() if not any(parent in suspects for parent in above)]:
        for name in peeled:
            del suspects[name]
    broken: list[BrokenRecipe] = []
    for name in suspects:
        if cycle := _cycle_through(name, suspects):
            message = f"the recipe is made from itself ({' <- '.join(cycle)}); let one of them name another model"
            broken.append(_broken(recipes[name], message, _named(recipes[name])[cycle[1]]))
    gone = {entry.name for entry in broken}
    return {name: recipe for name, recipe in recipes.items() if name not in gone}, broken


def _cycle_through(start: str, parents: Mapping[str, list[str]]) -> list[str]:
    """Shortest way from ``start`` up its parents back to itself, both ends included; empty if there is none."""
    child: dict[str, str] = {}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        for parent in parents.get(name, ()):
            if parent not in child:
                child[parent] = name
                queue.append(parent)
        if start in child:
            trail = [start]
            while len(trail) == 1 or trail[-1] != start:
                trail.append(child[trail[-1]])
            return trail[::-1]
    return []


def _split_orphans(
    recipes: dict[str, Recipe], broken: list[BrokenRecipe]
) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    """Take out what uses a broken recipe, directly or through others."""
    lost = {entry.name: entry.file for entry in broken if entry.name not in recipes}
    left = dict(recipes)
    orphans: list[BrokenRecipe] = []
    changed = True
    while changed:
        changed = False
        for name, recipe in list(left.items()):
            for parent, key in _named(recipe).items():
                if parent in lost:
                    message = f"uses the recipe {parent!r}, which is broken itself (see {lost[parent]})"
                    orphans.append(_broken(recipe, message, key))
                    lost[name] = left.pop(name).source.file
                    changed = True
                    break
    return left, orphans
