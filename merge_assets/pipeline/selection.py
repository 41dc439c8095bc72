"""Which assets a person means by names of recipes, and which of them are out of date."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import dagster as dg

from merge_assets.api.preflight import suites_of
from merge_assets.errors import RecipeError, did_you_mean
from merge_assets.identity import analysis_line, importance_line, scores_line, search_line, variant_line
from merge_assets.pipeline.keys import LEADERBOARD
from merge_assets.pipeline.nodes import Graph, ModelNode
from merge_assets.pipeline.versions import Recorded, out_of_date
from merge_assets.recipe.book import not_stored
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import KnownScores


@dataclass(frozen=True)
class AssetsToBuild:
    """What to bring up to date.

    Attributes:
        keys: assets that are built.
        bases: base checkpoints that they are built from, to be observed first.
    """

    keys: frozenset[dg.AssetKey]
    bases: tuple[ModelNode, ...]


def select(graph: Graph, names: Sequence[str], *, with_scores: bool = True) -> AssetsToBuild:
    """The assets of some recipes with all that they need.

    Args:
        graph: all nodes.
        names: recipes, and searches for what they found, too; none means those that automation may build.
        with_scores: also their scores, those of the base checkpoints they are made of, and the leaderboard.

    Raises:
        RecipeError: for a name that is no recipe, or that of a broken one or one that is not stored.
    """
    by_name = {node.recipe.name: node for node in graph.variants}
    found = {node.recipe.name: [node.key] for node in graph.searches}
    for node in graph.variants:
        if node.recipe.found is not None and node.recipe.found.search in found:
            found[node.recipe.found.search].append(node.model.key)
    if names:
        chosen = [
            key
            for name in names
            for key in found.get(name) or ([by_name[name].model.key] if name in by_name else _unknown(graph, name))
        ]
    else:
        chosen = [node.model.key for node in graph.variants if node.model.automated]
        chosen += [node.key for node in graph.searches if node.automated]
    return _with_needs(graph, chosen, with_scores=with_scores)


def searches_of(graph: Graph, selection: AssetsToBuild) -> AssetsToBuild:
    """The searches of a selection with all that they need, without what they found."""
    searches = [node.key for node in graph.searches if node.key in selection.keys]
    return _with_needs(graph, searches, with_scores=False)


def _with_needs(graph: Graph, chosen: Iterable[dg.AssetKey], *, with_scores: bool) -> AssetsToBuild:
    variants = {node.model.key: node for node in graph.variants}
    searches = {node.key: node for node in graph.searches}
    analyses = {node.key: node.model for node in graph.analyses}
    analyses |= {node.key: node.model for node in graph.importance}
    bases = {node.key: node for node in graph.bases}
    keys: set[dg.AssetKey] = set()
    models: set[dg.AssetKey] = set()
    waiting = list(chosen)
    while waiting:
        key = waiting.pop()
        if key in keys or key in models:
            continue
        if key in variants:
            keys.add(key)
            models.add(key)
            waiting += variants[key].deps
        elif key in searches:
            keys.add(key)
            waiting += [model.key for model in searches[key].models]
        elif key in analyses:
            keys.add(key)
            waiting.append(analyses[key].key)
        elif key in bases:
            models.add(key)
    if with_scores:
        scored = [node.key for node in graph.scores if node.model.key in models]
        keys |= set(scored)
        if scored:
            keys.add(LEADERBOARD)
    return AssetsToBuild(frozenset(keys), tuple(bases[key] for key in sorted(models) if key in bases))


def reasons_to_build(
    workspace: Workspace,
    graph: Graph,
    specs: Sequence[dg.AssetSpec],
    known: Mapping[dg.AssetKey, Recorded | None],
    anyway: Collection[dg.AssetKey] = (),
) -> dict[dg.AssetKey, str]:
    """Which of ``specs`` are out of date, and why: by recorded versions, or because the store lost the artifact.

    A variant that `keep` let go counts as made while its scores are there, unless something is to be made of it now.

    Args:
        workspace: whose store is looked at.
        graph: all nodes.
        specs: in topological order.
        known: what is recorded for them and their inputs.
        anyway: those that are made whether they are out of date or not.
    """
    lines = _lines(workspace, graph)
    built = {spec.key: record for spec in specs if (record := known.get(spec.key)) is not None}
    lost = {key for key, record in built.items() if workspace.store.get(lines[key], record.data_version) is None}
    let_go = _let_go(workspace, graph, built, lost)
    while True:
        reasons = out_of_date(specs, known, lost - let_go)
        needed = {dep.asset_key for spec in specs if spec.key in reasons or spec.key in anyway for dep in spec.deps}
        if not needed & let_go:
            return reasons
        let_go -= needed


def _let_go(
    workspace: Workspace, graph: Graph, built: Mapping[dg.AssetKey, Recorded], lost: Collection[dg.AssetKey]
) -> set[dg.AssetKey]:
    """Variants whose bytes went by `keep` of their recipe: they are made as long as what was to be known of them is there."""
    known = KnownScores(workspace)
    return {
        node.model.key
        for node in graph.variants
        if node.model.key in lost
        and node.recipe.keep is not None
        and known.complete(
            workspace.names.identify(node.model.reference),
            suites_of(workspace, node.recipe),
            built[node.model.key].data_version,
        )
    }


def _lines(workspace: Workspace, graph: Graph) -> dict[dg.AssetKey, str]:
    lines = {LEADERBOARD: "leaderboard"}
    for variant in graph.variants:
        lines[variant.model.key] = variant_line(variant.recipe.name)
    for analysis in graph.analyses:
        lines[analysis.key] = analysis_line(workspace.names.identify(analysis.model.reference))
    for measured in graph.importance:
        identity = workspace.names.identify(measured.model.reference)
        lines[measured.key] = importance_line(identity, measured.kind, measured.sample.label)
    for search in graph.searches:
        lines[search.key] = search_line(search.recipe.name)
    for node in graph.scores:
        lines[node.key] = scores_line(workspace.names.identify(node.model.reference), node.suite)
    return lines


def _unknown(graph: Graph, name: str) -> NoReturn:
    for broken in graph.broken:
        if broken.name == name:
            raise RecipeError(broken.message)
    if name in graph.folded:
        raise RecipeError(not_stored(name, graph.folded[name]))
    raise RecipeError(
        f"there is no recipe {name!r}{did_you_mean(name, _names(graph))}; `merge-assets recipes` lists them"
    )


def _names(graph: Graph) -> Iterable[str]:
    return [*(node.recipe.name for node in graph.variants), *(node.recipe.name for node in graph.searches)]
