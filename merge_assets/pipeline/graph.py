"""What there is to build, as plain data: the recipes of a workspace resolved to nodes and edges.

The asset factories turn each node into an asset and decide nothing. Nothing is read here but what the workspace
already holds, so that the graph of a thousand recipes takes well under a second.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import dagster as dg

from merge_assets.api.preflight import suites_of
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
from merge_assets.pipeline.keys import (
    base_key,
    broken_key,
    importance_key,
    scores_key,
    snr_key,
    variant_key,
)
from merge_assets.pipeline.labels import check_labels, is_cron
from merge_assets.plan import check_alone
from merge_assets.plan.assemble import not_analysed
from merge_assets.recipe import ImportanceKind, PruneLayers, Recipe, TextSample
from merge_assets.reference import ModelReference
from merge_assets.workspace import Automation, Workspace
from merge_assets.workspace.texts import text_digest

_UNSHOWN = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 120

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelNode:
    """A base checkpoint or a variant: something that can be merged, analysed and evaluated.

    Attributes:
        reference: as :mod:`merge_assets.api` takes it.
        kind: ``recipe``, ``local`` or ``hub``.
        parts: what its keys are made of; unique among all models.
        title: how people call it.
        automated: automation may observe, build and evaluate it.
    """

    reference: ModelReference
    kind: str
    parts: tuple[str, ...]
    title: str
    automated: bool

    @property
    def key(self) -> dg.AssetKey:
        return variant_key(self.parts[0]) if self.kind == "recipe" else base_key(self.parts)


@dataclass(frozen=True)
class VariantNode:
    """A recipe with the assets that its merge reads.

    Attributes:
        recipe: what to build.
        model: the variant as a model.
        group: nested group of the lineage graph, below ``variants``.
        parents: models that are merged, by the recipe or by those folded into it.
        adapters: what is applied to parents.
        deps: keys of the parents, the adapters and of the analyses that the recipes ask for.
        folded: recipes that are not stored and are folded into this one, deepest first.
    """

    recipe: Recipe
    model: ModelNode
    group: str
    parents: tuple[ModelNode, ...]
    adapters: tuple[ModelNode, ...]
    deps: tuple[dg.AssetKey, ...]
    folded: tuple[Recipe, ...]


@dataclass(frozen=True)
class AnalysisNode:
    """The analysis of one model that at least one recipe asks for.

    Attributes:
        model: what is analysed.
        modules: parts of tensor names such as ``self_attn.v_proj``, sorted.
    """

    model: ModelNode
    modules: tuple[str, ...]

    @property
    def key(self) -> dg.AssetKey:
        return snr_key(self.model.parts)


@dataclass(frozen=True)
class ImportanceNode:
    """What the layers of one model are worth on one text, which at least one recipe asks for.

    Attributes:
        model: what is run on the text.
        kind: what is measured.
        sample: the text with its settings.
        text: digest of the text; empty if it cannot be read, which the step says.
    """

    model: ModelNode
    kind: ImportanceKind
    sample: TextSample
    text: str

    @property
    def key(self) -> dg.AssetKey:
        return importance_key(self.model.parts, self.kind, self.sample.label)


@dataclass(frozen=True)
class ScoresNode:
    """One model on one suite.

    Attributes:
        model: what is evaluated.
        suite: name of the suite.
        parents: the models that it was merged from, for deltas.
        automated: automation may evaluate it.
    """

    model: ModelNode
    suite: str
    parents: tuple[ModelNode, ...]
    automated: bool

    @property
    def key(self) -> dg.AssetKey:
        return scores_key(self.model.parts, self.suite)


@dataclass(frozen=True)
class BrokenNode:
    """A recipe or suite that cannot be used, why, and the kind of that error."""

    name: str
    file: Path
    message: str
    kind: str = RecipeError.kind

    @property
    def key(self) -> dg.AssetKey:
        return broken_key(self.name)


@dataclass(frozen=True)
class Graph:
    """All nodes, each list sorted by key.

    Attributes:
        folded: recipes that are not stored, which have no node, and the variants that they are folded into.
    """

    bases: tuple[ModelNode, ...]
    variants: tuple[VariantNode, ...]
    analyses: tuple[AnalysisNode, ...]
    importance: tuple[ImportanceNode, ...]
    scores: tuple[ScoresNode, ...]
    broken: tuple[BrokenNode, ...]
    folded: Mapping[str, tuple[str, ...]]

    def built_keys(self) -> list[dg.AssetKey]:
        """What can be built, the leaderboard excluded."""
        return [
            *(node.key for node in self.analyses),
            *(node.key for node in self.importance),
            *(node.model.key for node in self.variants),
            *(node.key for node in self.scores),
        ]

    def automated_keys(self) -> list[dg.AssetKey]:
        """What automation may build, the leaderboard excluded."""
        nodes: list[dg.AssetKey] = [node.key for node in self.analyses if node.model.automated]
        nodes += [node.key for node in self.importance if node.model.automated]
        nodes += [node.model.key for node in self.variants if node.model.automated]
        nodes += [node.key for node in self.scores if node.automated]
        return nodes


def build_graph(workspace: Workspace) -> Graph:
    """Resolve every recipe of the workspace."""
    builder = _Builder(workspace)
    for name in workspace.book.order():
        builder.add(workspace.book.recipes[name])
    return builder.graph()


class _Builder:
    """Takes recipes in build order, so that a recipe's parents are known before it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.bases: dict[dg.AssetKey, ModelNode] = {}
        self.variants: dict[str, VariantNode] = {}
        self.modules: dict[dg.AssetKey, tuple[ModelNode, set[str]]] = {}
        self.importance: dict[dg.AssetKey, ImportanceNode] = {}
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
                self._add(recipe)
        except MergeAssetsError as error:
            self._break(recipe.name, file, str(error), error.kind)
        except Exception as error:  # one recipe never takes others down
            self._break(recipe.name, file, f"{file}: {in_one_line(error)}")

    def _add(self, recipe: Recipe) -> None:
        wholes = self.workspace.book.inputs(recipe)
        references = _distinct(
            part
            for whole in wholes
            for part in (ModelReference(whole.path, whole.revision), whole.lora)
            if part is not None
        )
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
        if recipe.schedule is not None and not is_cron(recipe.schedule):
            message = f"{recipe.source.file}: schedule: there is no time that {recipe.schedule!r} means"
            self._break(f"{recipe.name}-schedule", recipe.source.file, message)
            recipe = recipe.model_copy(update={"schedule": None})
        own = ModelNode(ModelReference(recipe.name), "recipe", (recipe.name,), recipe.name, automated)
        parents = tuple(model for reference, model in models.items() if reference not in adapters)
        applied = tuple(model for reference, model in models.items() if reference in adapters)
        self.variants[recipe.name] = VariantNode(recipe, own, group, parents, applied, _distinct(deps), folded)
        for suite in self._suites(recipe):
            self._score(own, suite, parents, automated)
            for parent in parents:
                if parent.kind != "recipe":
                    self._score(parent, suite, (), automated)

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
