"""A project, opened: its settings, recipes, suites and store, and the Hub."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.errors import RecipeError, did_you_mean
from merge_assets.recipe import Recipe, RecipeBook, load_recipe
from merge_assets.recipe.choosing import is_selection, only
from merge_assets.regular import is_file
from merge_assets.settings import Settings, load_settings
from merge_assets.store import ArtifactStore
from merge_assets.workspace.bucket import StoredModels
from merge_assets.workspace.checkpoint_folders import CheckpointFolders
from merge_assets.workspace.names import Names
from merge_assets.workspace.searches import results_of

if TYPE_CHECKING:
    from merge_assets.evaluation.data import FetchedData
    from merge_assets.evaluation.suite import Suite, Suites
    from merge_assets.hub import Hub
    from merge_assets.workspace.snapshot import Snapshot


def open_store(settings: Settings) -> ArtifactStore:
    """The store that the settings name; nothing is read."""
    return ArtifactStore(settings.store_url, settings.store_secrets(), scratch=settings.cache_dir)


class Workspace:
    """What every verb needs, opened once: settings, recipes, suites, store and Hub.

    Opening reads recipe and suite files, the headers of checkpoints that are averaged, where there are searches what the store
    has of them, and nothing else: no weights, no torch.
    """

    def __init__(
        self, settings: Settings, book: RecipeBook, store: ArtifactStore, planned: Snapshot | None = None
    ) -> None:
        self.settings = settings
        self._folders = CheckpointFolders(settings, planned.checkpoints if planned else ())
        self.book = replace(book, recipes={name: self.listed(recipe) for name, recipe in book.recipes.items()})
        self.store = store
        self.names = Names(
            settings, self.book, {model.reference: model for model in planned.models} if planned else None
        )
        self._planned = planned

    @classmethod
    def open(cls, settings: Settings | None = None, planned: Snapshot | None = None) -> Workspace:
        """Open a project.

        Args:
            settings: default: those around the working directory.
            planned: take recipes, suites and what models are called from here, not from the folders.
        """
        settings = settings or load_settings()
        if planned is None:
            book, store = RecipeBook.load(settings.recipes), open_store(settings)
            return cls(settings, book.with_found(*results_of(store, book.searches.values())), store)
        settings = planned.applied_to(settings)
        book = RecipeBook.of(planned.recipes).with_found(planned.found)
        return cls(settings, book, open_store(settings), planned)

    @cached_property
    def suites(self) -> Suites:
        from merge_assets.evaluation.suite import load_suites, suites_of

        return suites_of(self._planned.suites) if self._planned else load_suites(self.settings.suites)

    def suite_of(self, name: str, recipe: Recipe | None) -> Suite:
        """A suite as a recipe has its variant asked it; as its file has it for what is no variant.

        Raises:
            EvaluationError: there is no such suite, or its file is broken.
            RecipeError: what the recipe sets does not go together with what the suite says.
        """
        from merge_assets.evaluation.asked import as_asked

        suite = self.suites.require(name)
        return suite if recipe is None else as_asked(suite, recipe)

    def snapshot(self) -> Snapshot:
        """What this workspace was opened with, for other processes to open the same."""
        from merge_assets.workspace.snapshot import Snapshot

        if self._planned is not None:
            return self._planned
        models = tuple(self.names.identities().values())
        searches = map(self.listed, self.book.searches.values())
        averaged = [recipe.average_checkpoints for recipe in (*self.book.recipes.values(), *searches)]
        listings = [found for template in averaged if template is not None and (found := template.listing) is not None]
        listed = tuple(dict.fromkeys(listings))
        return Snapshot.of(self.settings, self.book.texts, self.suites.texts, models, listed, self.book.results)

    def listed(self, recipe: Recipe) -> Recipe:
        """A recipe with the checkpoints that the folder of its training run holds now, or held when this run was planned; one
        that averages none, or has them, as it is."""
        template = recipe.average_checkpoints
        return recipe if template is None or template.listing is not None else self._folders.listed(recipe)

    @cached_property
    def fetched(self) -> FetchedData:
        """The data of tasks that were fetched since this project was opened."""
        from merge_assets.evaluation.data import FetchedData

        return FetchedData()

    @cached_property
    def hub(self) -> Hub:
        from merge_assets.hub import Hub

        token = self.settings.hub_token.get_secret_value() if self.settings.hub_token else None
        return Hub(endpoint=self.settings.hub_endpoint, token=token, cache_dir=self.settings.hub_cache)

    @cached_property
    def stored(self) -> StoredModels:
        """The models that builds read from the object store."""
        return StoredModels(self.cache / "tensors", int(self.settings.cache_size))

    @property
    def cache(self) -> Path:
        """Folder of digests, downloaded artifacts and finished evaluation tasks."""
        return self.settings.cache_dir

    def recipe(self, name: str) -> Recipe:
        """The recipe called ``name``, the one in the file of that path, or the only one that a selection means.

        Raises:
            RecipeError: if there is none, its file is broken, or several are meant.
        """
        if name in self.book.recipes:
            return self.book.recipes[name]
        if points := self.book.sweeps.get(name):
            raise RecipeError(f"{name!r} is a sweep; name one of its {len(points)} points, such as {points[0].name}")
        if name in self.book.searches:
            found = [one.name for one in self.book.recipes.values() if one.found and one.found.search == name]
            what = f", which found {', '.join(found)}" if found else ""
            raise RecipeError(f"{name!r} is a search{what}; `merge-assets search {name}` looks for its best values")
        for broken in self.book.broken:
            if broken.name == name:
                raise broken.error
        if Path(name).suffix in (".yaml", ".yml") or is_file(Path(name)):
            return self.listed(load_recipe(Path(name)))
        if is_selection(self.book, name):
            return self.recipe(only(self.book, name))
        raise RecipeError(
            f"there is no recipe {name!r}{did_you_mean(name, self.book.recipes)}; "
            "`merge-assets recipes` lists them, or give the path of a YAML file"
        )
