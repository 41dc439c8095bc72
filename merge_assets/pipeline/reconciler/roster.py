"""What a code location defines, as the reconciler looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from merge_assets.identity import variant_line
from merge_assets.pipeline.analyses import analysis_spec
from merge_assets.pipeline.importance import importance_spec
from merge_assets.pipeline.keys import LEADERBOARD, op_names, search_key
from merge_assets.pipeline.lateness import fresh_seconds
from merge_assets.pipeline.leaderboard import leaderboard_spec
from merge_assets.pipeline.nodes import Graph
from merge_assets.pipeline.reconciler.facts import Asset
from merge_assets.pipeline.scores import scores_spec
from merge_assets.pipeline.searches import search_spec
from merge_assets.pipeline.variants import CHECKS, variant_spec
from merge_assets.pipeline.versions import topological
from merge_assets.workspace import Workspace


@dataclass(frozen=True)
class Roster:
    """What there is to make.

    Attributes:
        assets: all that can be built, in topological order.
        bases: keys of the base checkpoints.
        steps: the asset that each step makes.
        checks: blocking checks.
        kept: lines of the variants of which recipes with `keep` let versions go, by their keys.
    """

    assets: tuple[Asset, ...]
    bases: tuple[str, ...]
    steps: Mapping[str, str]
    checks: tuple[dg.AssetCheckKey, ...]
    kept: Mapping[str, str]


def roster_of(workspace: Workspace, graph: Graph) -> Roster:
    """That of a workspace, without its Dagster definitions."""
    specs = [analysis_spec(node) for node in graph.analyses]
    specs += [importance_spec(node) for node in graph.importance]
    specs += [search_spec(node) for node in graph.searches]
    specs += [variant_spec(node) for node in graph.variants]
    specs += [
        scores_spec(node, workspace.suite_of(node.suite, workspace.book.resolve(node.model.reference)))
        for node in graph.scores
    ]
    names = op_names(graph.built_keys())
    automated = set(graph.automated_keys())
    if any(node.automated for node in graph.scores):
        automated.add(LEADERBOARD)
    if graph.scores:
        specs.append(leaderboard_spec([node.key for node in graph.scores]))
    steps = {name: key.to_user_string() for key, name in names.items()}
    told_by = {
        node.model.key: (search_key(found.search).to_user_string(), found.version)
        for node in graph.variants
        if (found := node.recipe.found) is not None
    }
    return Roster(
        assets=tuple(
            _asset(spec, automated=spec.key in automated, told_by=told_by.get(spec.key)) for spec in topological(specs)
        ),
        bases=tuple(node.key.to_user_string() for node in graph.bases),
        steps={**steps, LEADERBOARD.path[0]: LEADERBOARD.to_user_string()},
        checks=tuple(dg.AssetCheckKey(node.model.key, name) for node in graph.variants for name in CHECKS),
        kept={
            node.model.key.to_user_string(): variant_line(node.recipe.name)
            for node in graph.variants
            if node.recipe.keep is not None
        },
    )


def _asset(spec: dg.AssetSpec, *, automated: bool, told_by: tuple[str, str] | None) -> Asset:
    return Asset(
        key=spec.key.to_user_string(),
        inputs=tuple(sorted({dep.asset_key.to_user_string() for dep in spec.deps})),
        code=spec.code_version,
        automated=automated,
        collects=spec.key == LEADERBOARD,
        fresh=fresh_seconds(spec),
        told_by=told_by,
    )
