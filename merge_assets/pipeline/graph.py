"""What there is to build, as plain data: the recipes of a workspace resolved to nodes and edges.

The asset factories turn each node into an asset and decide nothing. Nothing is read here but what the workspace
already holds, so that the graph of a thousand recipes takes well under a second.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import dagster as dg

from merge_assets.api.preflight import suites_of
from merge_assets.api.search_plan import checked_search
from merge_assets.errors import (
    AnalysisError,
    CheckpointError,
    MergeAssetsError,
    RecipeError,
    in_file,
    in_one_line,
    printable,
)
from merge_assets.identity import ModelIdentity
from merge_assets.pipeline.keys import importance_key, snr_key
from merge_assets.pipeline.labels import check_labels, is_cron
from merge_assets.pipeline.nodes import (
    AnalysisNode,
    BrokenNode,
    Graph,
    ImportanceNode,
    ModelNode,
    ScoresNode,
    SearchNode,
    VariantNode,
)
from merge_assets.plan import check_alone
from merge_assets.plan.assemble import not_analysed
from merge_assets.recipe import PruneLayers, Recipe
from merge_assets.reference import ModelReference
from merge_assets.workspace import Automation, Workspace
from merge_assets.workspace.searches import search_code
from merge_assets.workspace.texts import text_digest

_UNSHOWN = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 120

_T = TypeVar("_T")


def build_graph(workspace: Workspace) -> Graph:
    """Resolve every recipe of the workspace."""
    builder = _Builder(workspace)
    written: list[Recipe] = []
    found: list[Recipe] = []
    for name in workspace.book.order():
        recipe = workspace.book.recipes[name]
        (written if recipe.found is None else found).append(recipe)
    # Searches are of what recipes make; what they found depends on them, and nothing is made of it.
    for recipe in (*written, *workspace.book.searches.values(), *found):
        builder.add(recipe)
    return builder.graph()


class _Builder:
    """Takes recipes in build order, so that a recipe's parents are known before it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.bases: dict[dg.AssetKey, ModelNode] = {}
        self.variants: dict[str, VariantNode] = {}
        self.modules: dict[dg.AssetKey, tuple[ModelNode, set[str]]] = {}
        self.importance: dict[dg.AssetKey, ImportanceNode] = {}
        self.searches: dict[str, SearchNode] = {}
        self.scores: dict[dg.AssetKey, ScoresNode] = {}
        self.automation = Automation(workspace)
        self.identities: dict[ModelReference, ModelIdentity] = {}
        self.broken: dict[str, BrokenNode] = {}
        self.folded: dict[str, list[str]] = {}
        for recipe in workspace.book.broken:
            self._break(recipe.name, recipe.file, str(recipe.error), recipe.error.kind)
        for suite in workspace.suites.broken:
            self._break(f"suite-{suite.name}", suite.file, str(suite.error), suite.error.kind)

    def add(self, recipe: Recipe) -> None:
        """Add the nodes of one recipe, or a broken node if one of its models is nowhere, or whatever else is wrong with it.

        A recipe that is not stored has none: what is made of it depends on what it is made of itself.
        """
        file = recipe.source.file
        try:
            with in_file(file):
                if recipe.search is None:
                    self._add(recipe)
                else:
                    self._add_search(recipe)
        except MergeAssetsError as error:
            self._break(recipe.name, file, str(error), error.kind)
        except Exception as error:  # one recipe never takes others down
            self._break(recipe.name, file, f"{file}: {in_one_line(error)}")

    def _add(self, recipe: Recipe) -> None:
        wholes = self.workspace.book.inputs(recipe)
        references = _distinct(part for whole in wholes for part in whole.parts)
        adapters = {whole.lora for whole in wholes}
        folded = self.workspace.book.folded(recipe)
        check_alone(recipe)
        models = {reference: self._model(reference) for reference in references}
        analysed = self._analysed((*folded, recipe), models)
        group = self._group(recipe)
        check_labels(recipe, group)
        if not recipe.materialize:
            self.folded[recipe.name] = []
            return
        for inner in folded:
            self.folded[inner.name].append(recipe.name)
        automated = self.automation.allows(recipe)
        if automated:
            models = {reference: self._automate(model) for reference, model in models.items()}
        deps = [model.key for model in models.values()]
        deps += [self._measure(template, models[template.model]) for template in analysed]
        if recipe.found is not None and recipe.found.search in self.searches:
            deps.append(self.searches[recipe.found.search].key)
        recipe = self._scheduled(recipe)
        own = ModelNode(ModelReference(recipe.name), "recipe", (recipe.name,), recipe.name, automated)
        parents = tuple(model for reference, model in models.items() if reference not in adapters)
        applied = tuple(model for reference, model in models.items() if reference in adapters)
        self.variants[recipe.name] = VariantNode(recipe, own, group, parents, applied, _distinct(deps), folded)
        for suite in self._suites(recipe):
            self._score(own, suite, parents, automated)
            for parent in parents:
                if parent.kind != "recipe":
                    self._score(parent, suite, (), automated)

    def _add_search(self, recipe: Recipe) -> None:
        suites = checked_search(self.workspace, recipe.name).suites
        group = self._group(recipe)
        check_labels(recipe, group)
        models: dict[ModelReference, ModelNode] = {}
        for number, point in enumerate(self.workspace.book.searched[recipe.name]):
            listed = self.workspace.listed(point)
            for reference in _distinct(one for whole in self.workspace.book.inputs(listed) for one in whole.parts):
                with suppress(*(() if number == 0 else (CheckpointError,))):
                    models[reference] = self._model(reference)
        automated = self.automation.allows(recipe)
        found = [self._automate(model) if automated else model for model in models.values()]
        code = search_code(self.workspace.listed(recipe), suites)
        self.searches[recipe.name] = SearchNode(self._scheduled(recipe), group, _distinct(found), code, automated)

    def _scheduled(self, recipe: Recipe) -> Recipe:
        """A recipe without a schedule that means no time, which is shown as broken."""
        if recipe.schedule is None or is_cron(recipe.schedule):
            return recipe
        message = f"{recipe.source.file}: schedule: there is no time that {recipe.schedule!r} means"
        self._break(f"{recipe.name}-schedule", recipe.source.file, message)
        return recipe.model_copy(update={"schedule": None})

    def graph(self) -> Graph:
        latest = {**self.bases, **{node.model.key: node.model for node in self.variants.values()}}
        return Graph(
            bases=tuple(self.bases[key] for key in sorted(self.bases)),
            variants=tuple(self.variants[name] for name in sorted(self.variants)),
            analyses=tuple(
                AnalysisNode(latest[key], tuple(sorted(asked))) for key, (_, asked) in sorted(self.modules.items())
            ),
            importance=tuple(
                replace(node, model=latest[node.model.key]) for _, node in sorted(self.importance.items())
            ),
            searches=tuple(self.searches[name] for name in sorted(self.searches)),
            scores=tuple(
                replace(self.scores[key], model=latest[self.scores[key].model.key]) for key in sorted(self.scores)
            ),
            broken=tuple(self.broken[name] for name in sorted(self.broken)),
            folded={name: tuple(consumers) for name, consumers in self.folded.items()},
        )

    def _analysed(self, recipes: Iterable[Recipe], models: Mapping[ModelReference, ModelNode]) -> list[PruneLayers]:
        """How recipes choose layers by an analysis."""
        found = []
        for recipe in recipes:
            template = recipe.prune_layers
            if template is not None and template.is_measured:
                if template.model not in models:
                    raise CheckpointError(f"prune_layers.model: {not_analysed(template.model)}")
                found.append(template)
        return found

    def _measure(self, template: PruneLayers, model: ModelNode) -> dg.AssetKey:
        """The key of the analysis that a recipe chooses layers by, which is among the nodes then."""
        if template.tensor is not None:
            self.modules.setdefault(model.key, (model, set()))[1].add(template.tensor)
            return snr_key(model.parts)
        kind, sample = template.importance, template.text
        assert kind is not None and sample is not None
        key = importance_key(model.parts, kind, sample.label)
        if key not in self.importance:  # a text is read once for all recipes
            try:
                text = text_digest(self.workspace.settings, sample)
            except AnalysisError:
                text = ""
            self.importance[key] = ImportanceNode(model, kind, sample, text)
        return key

    def _model(self, reference: ModelReference) -> ModelNode:
        if reference not in self.identities:
            self.identities[reference] = self.workspace.names.identify(reference)
        identity = self.identities[reference]
        if identity.kind == "recipe":
            name = identity.parts[0]
            if name not in self.variants:
                raise CheckpointError(f"it uses the recipe {name!r}, which is broken; repair that one first")
            return self.variants[name].model
        node = ModelNode(reference, identity.kind, identity.parts, identity.title, automated=False)
        return self.bases.setdefault(node.key, node)

    def _automate(self, model: ModelNode) -> ModelNode:
        if model.kind != "recipe" and not model.automated:
            self.bases[model.key] = replace(model, automated=True)
        return self.bases.get(model.key, model)

    def _score(self, model: ModelNode, suite: str, parents: tuple[ModelNode, ...], automated: bool) -> None:
        node = ScoresNode(model, suite, parents, automated)
        if automated or node.key not in self.scores:
            self.scores[node.key] = node

    def _suites(self, recipe: Recipe) -> list[str]:
        """The recipe's suites that exist and take what it sets; each that does not is shown as broken."""
        found = []
        for suite in suites_of(self.workspace, recipe):
            if suite not in self.workspace.suites:
                known = ", ".join(sorted(self.workspace.suites)) or "none"
                message = f"{recipe.source.file}: evaluate: there is no usable suite {suite!r}; there are: {known}"
                self._break(f"{recipe.name}-{suite}", recipe.source.file, message)
                continue
            try:
                self.workspace.suite_of(suite, recipe)
                found.append(suite)
            except RecipeError as error:
                self._break(f"{recipe.name}-{suite}", recipe.source.file, str(error))
        return found

    def _group(self, recipe: Recipe) -> str:
        """The recipe's ``group``, else its folder inside the recipe folders."""
        if recipe.group:
            return recipe.group
        for folder in self.workspace.settings.recipes:
            root = self.workspace.settings.path(folder)
            if recipe.source.file.is_relative_to(root):
                return recipe.source.file.relative_to(root).parent.as_posix().strip(".")
        return ""

    def _break(self, name: str, file: Path, message: str, kind: str = RecipeError.kind) -> None:
        """Add a broken node; two files that claim one name share it."""
        name = _UNSHOWN.sub("_", name)[:_LONGEST_NAME] or "unnamed"
        known = self.broken.get(name)
        message = printable(f"{known.message}\n{message}" if known else message)
        kind = known.kind if known else kind
        self.broken[name] = BrokenNode(name, Path(printable(str(file))), message, kind)


def _distinct(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(items))
