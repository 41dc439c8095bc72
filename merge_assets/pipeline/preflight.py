"""Evaluations that would fail, found before a run merges anything for them."""

from collections.abc import Mapping, Sequence

import dagster as dg

from merge_assets.pipeline.nodes import Graph
from merge_assets.pipeline.outcome import FAILED, SKIPPED, Outcome
from merge_assets.workspace import Workspace


def stopped(workspace: Workspace, graph: Graph, wanted: Sequence[dg.AssetSpec]) -> Mapping[dg.AssetKey, Outcome]:
    """What is not made because an evaluation would fail: its scores, and what would be made for such scores alone.

    Whatever else is wanted is made: a model that another suite or another variant needs as well.

    Args:
        workspace: with the suites.
        graph: all nodes.
        wanted: what a run would make, in topological order.
    """
    from merge_assets import api

    keys = {spec.key for spec in wanted}
    scores = {node.key: node.suite for node in graph.scores if node.key in keys}
    refused = api.refused(workspace, scores.values()) if scores else {}
    found = {
        key: Outcome(key.to_user_string(), FAILED, message=str(refused[suite]))
        for key, suite in scores.items()
        if suite in refused
    }
    if not found:
        return {}
    users: dict[dg.AssetKey, list[dg.AssetKey]] = {}
    for spec in wanted:
        if spec.key.path[0] != "leaderboard":
            for dep in spec.deps:
                users.setdefault(dep.asset_key, []).append(spec.key)
    for spec in reversed(wanted):
        needed_by = users.get(spec.key, [])
        if spec.key not in found and needed_by and all(user in found for user in needed_by):
            why = "it would be made for evaluations alone that would fail; --only-variants merges all the same"
            found[spec.key] = Outcome(spec.key.to_user_string(), SKIPPED, message=why)
    return found
