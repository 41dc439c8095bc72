"""Nodes and edges of the lineage graph, as plain data: what there is to build, and what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from merge_assets.errors import RecipeError
from merge_assets.pipeline.keys import (
    base_key,
    broken_key,
    importance_key,
    scores_key,
    search_key,
    snr_key,
    variant_key,
)
from merge_assets.recipe import ImportanceKind, Recipe, TextSample
from merge_assets.reference import ModelReference


@dataclass(frozen=True)
class ModelNode:
    """A base checkpoint or a variant: something that can be merged, analysed and evaluated.

    Attributes:
        reference: as :mod:`merge_assets.api` takes it.
        kind: ``recipe``, ``local``, ``hub`` or ``url``.
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
        deps: keys of the parents, the adapters, of the analyses that the recipes ask for, and of the search that found it.
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
class SearchNode:
    """A search with the models that its candidates may be made of.

    Attributes:
        recipe: with ``search``.
        group: nested group of the lineage graph, below ``searches``.
        models: of candidates; those that are nowhere are left out, as trials with them fail.
        code: key of what says what it finds, the bytes of its models aside.
        automated: automation may run it.
    """

    recipe: Recipe
    group: str
    models: tuple[ModelNode, ...]
    code: str
    automated: bool

    @property
    def key(self) -> dg.AssetKey:
        return search_key(self.recipe.name)


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
    searches: tuple[SearchNode, ...]
    scores: tuple[ScoresNode, ...]
    broken: tuple[BrokenNode, ...]
    folded: Mapping[str, tuple[str, ...]]

    def built_keys(self) -> list[dg.AssetKey]:
        """What can be built, the leaderboard excluded."""
        return [
            *(node.key for node in self.analyses),
            *(node.key for node in self.importance),
            *(node.key for node in self.searches),
            *(node.model.key for node in self.variants),
            *(node.key for node in self.scores),
        ]

    def automated_keys(self) -> list[dg.AssetKey]:
        """What automation may build, the leaderboard excluded."""
        nodes: list[dg.AssetKey] = [node.key for node in self.analyses if node.model.automated]
        nodes += [node.key for node in self.importance if node.model.automated]
        nodes += [node.key for node in self.searches if node.automated]
        nodes += [node.model.key for node in self.variants if node.model.automated]
        nodes += [node.key for node in self.scores if node.automated]
        return nodes
