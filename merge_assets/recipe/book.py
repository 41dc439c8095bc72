"""Every recipe of a project, and how they refer to each other.

A broken file never takes others down: it is listed in ``broken`` with its error. Recipes that share a name, that ask
for what is not built yet, that stand on a cycle, or that use a broken recipe are broken too, because none of them can
be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

from merge_assets.errors import RecipeError, in_one_line
from merge_assets.recipe.cycles import cycle_through, without_ends
from merge_assets.recipe.files import TABLE, RecipeText, read_texts
from merge_assets.recipe.found import SearchResult, found_recipes, naming
from merge_assets.recipe.load import BrokenRecipe, read_recipes
from merge_assets.recipe.schema import Recipe
from merge_assets.recipe.sweep import Tables
from merge_assets.recipe.swept import sweeps_of, telling
from merge_assets.recipe.unbuilt import check_built
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import read_text

MAX_GENERATIONS = 300
"""Recipes in a row that are each made of the one before."""


@dataclass(frozen=True)
class RecipeBook:
    """The usable recipes by name, sorted, and the broken ones.

    Attributes:
        recipes: usable recipes; every recipe that one of them names is usable too.
        broken: the others, with their errors, sorted by file and name.
        texts: what they were read from.
        searches: recipes with ``search``, which are no variants; what they found is among the recipes.
        results: what searches found.
    """

    recipes: Mapping[str, Recipe]
    broken: list[BrokenRecipe] = field(default_factory=list)
    texts: tuple[RecipeText, ...] = ()
    searches: Mapping[str, Recipe] = field(default_factory=dict)
    results: tuple[SearchResult, ...] = ()

    @classmethod
    def load(cls, folders: Iterable[Path | str]) -> RecipeBook:
        """Read every recipe under ``folders``; see :func:`read_texts`."""
        return cls.of(read_texts(folders))

    @classmethod
    def of(cls, texts: Iterable[RecipeText]) -> RecipeBook:
        """The book of the recipes of files that were read, now or when a run was planned."""
        texts = tuple(texts)
        tables = {text.file: text for text in texts if text.file.suffix == TABLE}

        def read_table(path: Path) -> str:
            if path not in tables:
                tables[path] = RecipeText(path, path.stem, read_text(path))
            return tables[path].text

        found: list[Recipe] = []
        broken: list[BrokenRecipe] = []
        for text in texts:
            for entry in _read(text, read_table) if text.file.suffix != TABLE else ():
                if isinstance(entry, Recipe):
                    found.append(entry)
                else:
                    broken.append(entry)
        recipes, twins = _split_twins(found)
        recipes, unbuilt = _split_unbuilt(recipes)
        recipes, cyclic = _split_cycles(recipes)
        recipes, late = _split_late(recipes)
        broken += [*twins, *unbuilt, *cyclic, *late]
        searches = {name: recipe for name, recipe in recipes.items() if recipe.search is not None}
        recipes, unpromoted = _split_unpromoted(recipes, searches)
        broken += unpromoted
        recipes, orphans = _split_orphans(recipes, broken)
        everything = sorted([*broken, *orphans], key=lambda entry: (str(entry.file), entry.name))
        texts = (*tables.values(), *(text for text in texts if text.file not in tables))
        return cls(dict(sorted(recipes.items())), everything, texts, dict(sorted(searches.items())))

    def with_found(self, results: Iterable[SearchResult], unread: Iterable[BrokenRecipe] = ()) -> RecipeBook:
        """The book with the recipes that its searches have found.

        Args:
            results: of searches, of this book or others.
            unread: searches of which it cannot be told what they found.
        """
        results = tuple(one for one in results if one.details.search in self.searches)
        unread = tuple(unread)
        if not results and not unread:
            return self
        found, broken = found_recipes(self.searches, results)
        taken = {*self.recipes, *self.searches, *self.sweeps, *(one.name for one in self.broken)}
        for name, recipe in list(found.items()):
            if name in taken and (recipe.found is None or name != recipe.found.search):
                message = f"{name!r} is what a search found, and also the name of another recipe; rename that one"
                broken.append(_broken(found.pop(name), message, "name"))
        recipes, unpromoted = _split_unpromoted(self.recipes, found)
        recipes, orphans = _split_orphans({**recipes, **found}, [*self.broken, *unpromoted])
        everything = [*self.broken, *broken, *unread, *unpromoted, *orphans]
        everything.sort(key=lambda entry: (str(entry.file), entry.name))
        return RecipeBook(dict(sorted(recipes.items())), everything, self.texts, self.searches, results)

    @cached_property
    def searched(self) -> Mapping[str, tuple[Recipe, ...]]:
        """Of each search recipes that together name every model that a candidate may be made of, first the one as written."""
        return {name: naming(recipe) for name, recipe in self.searches.items()}

    @cached_property
    def sweeps(self) -> Mapping[str, tuple[Recipe, ...]]:
        """The recipes of each sweep, in the order of its points."""
        return sweeps_of(self.recipes.values())

    def beside(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """The points of a recipe's sweep that tell what the sweep changes, the same ones for all its points."""
        return () if recipe.swept is None else self._telling.get(recipe.swept.sweep, ())

    @cached_property
    def _telling(self) -> Mapping[str, tuple[Recipe, ...]]:
        return {name: telling(points) for name, points in self.sweeps.items()}

    def resolve(self, reference: ModelReference) -> Recipe | None:
        """The recipe that ``reference`` names, or ``None``. A reference with a revision never names a recipe."""
        return self.recipes.get(reference.path) if reference.revision is None else None

    def parents(self, name: str) -> list[str]:
        """Names of the recipes that recipe ``name`` uses as models, in order of mention."""
        return self._parents[name]

    @cached_property
    def _parents(self) -> Mapping[str, list[str]]:
        return {name: _parents(recipe, self.recipes) for name, recipe in self.recipes.items()}

    def made_of(self, recipe: Recipe, through: Callable[[Recipe], bool] = lambda _: True) -> tuple[Recipe, ...]:
        """The recipes that ``recipe`` is made of, directly or through each other, each after those it is made of itself.

        Args:
            recipe: of the book, or another one that names recipes of it.
            through: whether a recipe counts; what only others lead to does not.
        """
        found: dict[str, Recipe] = {}
        ways = [(recipe, iter(_parents(recipe, self.recipes)))]
        while ways:
            current, parents = ways[-1]
            above = next((name for name in parents if name not in found and through(self.recipes[name])), None)
            if above is not None:
                ways.append((self.recipes[above], iter(self._parents[above])))
                continue
            ways.pop()
            if ways:
                found[current.name] = current
        return tuple(found.values())

    def folded(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """The recipes that are not stored and that ``recipe`` is made of, directly or through each other, deepest first."""
        self._look_into(recipe)
        return tuple(self._folded_into(recipe).values())

    def inputs(self, recipe: Recipe) -> tuple[ModelReference, ...]:
        """Every model whose files ``recipe`` is made of: its references, with those of recipes that are not stored
        replaced by their own."""
        self._look_into(recipe)
        return tuple(self._inputs_of(recipe))

    def _look_into(self, recipe: Recipe) -> None:
        """See to it that the recipes that are not stored and that ``recipe`` is made of are known, each of which is asked
        once: there may be as many ways to a recipe as 2 to the number of those between."""
        for inner in self.made_of(recipe, lambda one: not one.materialize and one.name not in self._folded):
            self._folded[inner.name] = self._folded_into(inner)
            self._inputs[inner.name] = self._inputs_of(inner)

    def _folded_into(self, recipe: Recipe) -> dict[str, Recipe]:
        found: dict[str, Recipe] = {}
        for reference in recipe.references():
            if (inner := self.resolve_folded(reference)) is not None:
                found |= self._folded[inner.name] | {inner.name: inner}
        return found

    def _inputs_of(self, recipe: Recipe) -> dict[ModelReference, None]:
        found: dict[ModelReference, None] = {}
        for reference in recipe.references():
            inner = self.resolve_folded(reference)
            found |= {reference: None} if inner is None else self._inputs[inner.name]
        return found

    @cached_property
    def _folded(self) -> dict[str, dict[str, Recipe]]:
        """Of the recipes that are not stored, as far as they were asked for; those of :attr:`_inputs`, too."""
        return {}

    @cached_property
    def _inputs(self) -> dict[str, dict[ModelReference, None]]:
        return {}

    def consumers(self, name: str) -> list[str]:
        """Names of the stored recipes that recipe ``name``, which is not stored, is folded into."""
        folded, stored = {name}, []
        for other in self.order():
            if any(parent in folded for parent in self.parents(other)):
                if self.recipes[other].materialize:
                    stored.append(other)
                else:
                    folded.add(other)
        return sorted(stored)

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


def _read(text: RecipeText, tables: Tables) -> list[Recipe | BrokenRecipe]:
    """What a file holds; whatever reading it raises is an error of this file alone."""
    if text.problem is not None:
        return [BrokenRecipe(text.name, text.file, RecipeError(text.problem))]
    try:
        return read_recipes(text.text, text.file, text.name, tables)
    except Exception as error:
        return [
            BrokenRecipe(text.name, text.file, RecipeError(f"cannot be read ({in_one_line(error)})", file=text.file))
        ]


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
    sweeps = {recipe.swept.sweep: recipe.source.file for recipe in found if recipe.swept is not None}
    for name in by_name.keys() & sweeps.keys():
        message = f"{name!r} is also the name of a sweep in {sweeps[name]}; rename one"
        broken += [_broken(recipe, message, "name") for recipe in by_name.pop(name)]
    for name, recipes in by_name.items():
        for recipe in recipes if len(recipes) > 1 else ():
            others = _some([str(other.source.file) for other in recipes if other is not recipe], ", ")
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


def _split_unpromoted(
    recipes: Mapping[str, Recipe], searches: Mapping[str, Recipe]
) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    """Take out searches, which are no variants, and what is made of them or of what they found."""
    left = {name: recipe for name, recipe in recipes.items() if name not in searches}
    broken = []
    for name, recipe in list(left.items()):
        named = _named(recipe)
        if search := next((parent for parent in named if parent in searches), None):
            message = f"{search!r} is {_what(searches[search])}; promote what it found, and name that recipe"
            broken.append(_broken(left.pop(name), message, named[search]))
    return left, broken


def _what(recipe: Recipe) -> str:
    return "a search" if recipe.found is None else f"what the search {recipe.found.search} found"


def _split_cycles(recipes: dict[str, Recipe]) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    parents = {name: _parents(recipe, recipes) for name, recipe in recipes.items()}
    # Cycles and what is below them, usually nothing; of that, cycles and what is between two of them.
    suspects = without_ends(parents)
    children: dict[str, list[str]] = {name: [] for name in suspects}
    for name, above in suspects.items():
        for parent in above:
            if parent in children:
                children[parent].append(name)
    broken: list[BrokenRecipe] = []
    for name in without_ends(children):
        if cycle := cycle_through(name, suspects):
            message = f"the recipe is made from itself ({_some(cycle, ' <- ')}); let one of them name another model"
            broken.append(_broken(recipes[name], message, _named(recipes[name])[cycle[1]]))
    gone = {entry.name for entry in broken}
    return {name: recipe for name, recipe in recipes.items() if name not in gone}, broken


def _split_late(recipes: dict[str, Recipe]) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    """Take out what has too many recipes above it: planning, folding and drawing a chain take a step for each."""
    generation: dict[str, int] = {}
    late: list[BrokenRecipe] = []
    for name in RecipeBook(recipes).order():
        above = _parents(recipes[name], recipes)
        generation[name] = 1 + max((generation[parent] for parent in above), default=0)
        if generation[name] > MAX_GENERATIONS:
            oldest = max(above, key=lambda parent: generation[parent])
            message = (
                f"more than {MAX_GENERATIONS} recipes in a row lead to this one; name the folder of one that is built"
            )
            late.append(_broken(recipes[name], message, _named(recipes[name])[oldest]))
    gone = {entry.name for entry in late}
    return {name: recipe for name, recipe in recipes.items() if name not in gone}, late


def _some(items: Sequence[str], between: str) -> str:
    """At most five of them."""
    return between.join(items if len(items) <= 6 else (*items[:4], f"… {len(items) - 5} more …", items[-1]))


def _split_orphans(
    recipes: dict[str, Recipe], broken: list[BrokenRecipe]
) -> tuple[dict[str, Recipe], list[BrokenRecipe]]:
    """Take out what uses a broken recipe, directly or through others."""
    lost = {entry.name: entry.file for entry in broken if entry.name not in recipes}
    left = dict(recipes)
    orphans: list[BrokenRecipe] = []
    for name in RecipeBook(recipes).order():
        named = _named(recipes[name])
        parent = next((parent for parent in named if parent in lost), None)
        if parent is not None:
            message = f"uses the recipe {parent!r}, which is broken itself (see {lost[parent]})"
            orphans.append(_broken(recipes[name], message, named[parent]))
            lost[name] = left.pop(name).source.file
    return left, orphans
