"""From a workspace to Dagster definitions."""

from collections.abc import Sequence

import dagster as dg

from merge_assets.pipeline.alerts.sensor import build_alerts
from merge_assets.pipeline.analyses import build_analysis
from merge_assets.pipeline.automation import Reconciler, automation_sensor, recipe_schedules
from merge_assets.pipeline.bases import build_base_sensors, build_bases
from merge_assets.pipeline.broken import build_broken, refuse_when_validating
from merge_assets.pipeline.executor import choose_executor
from merge_assets.pipeline.gone import build_gone
from merge_assets.pipeline.gone_sensor import gone_sensor
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.importance import build_importance
from merge_assets.pipeline.keys import BUILD_JOB, LEADERBOARD, op_names
from merge_assets.pipeline.leaderboard import build_leaderboard
from merge_assets.pipeline.nodes import Graph
from merge_assets.pipeline.scores import build_scores
from merge_assets.pipeline.searches import build_search
from merge_assets.pipeline.unfinished import build_unfinished
from merge_assets.pipeline.variants import build_variant
from merge_assets.workspace import Workspace


def build_definitions(
    workspace: Workspace, graph: Graph | None = None, gone: Sequence[dg.AssetKey] = ()
) -> dg.Definitions:
    """Everything that Dagster shows and runs for a workspace.

    Args:
        workspace: opened settings, recipes and suites.
        graph: the workspace's graph, if it is there already.
        gone: assets that were there lately and are not any more.

    Raises:
        RecipeError: if a recipe is broken while definitions are being validated.
        SettingsError: if the executor needs a package that is not installed.
    """
    graph = graph or build_graph(workspace)
    refuse_when_validating(graph.broken)
    names = op_names(graph.built_keys())
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [*build_bases(workspace, graph.bases)]
    assets += [build_analysis(workspace, node, names[node.key]) for node in graph.analyses]
    assets += [build_importance(workspace, node, names[node.key]) for node in graph.importance]
    assets += [build_search(workspace, node, names[node.key]) for node in graph.searches]
    assets += [build_variant(workspace, node, names[node.model.key]) for node in graph.variants]
    assets += [build_scores(workspace, node, names[node.key]) for node in graph.scores]
    scores = [node.key for node in graph.scores]
    assets += build_leaderboard(workspace, scores)
    assets += build_gone(gone, names)
    broken_specs, broken_checks, broken_sensors = build_broken(graph.broken)
    reconciler = Reconciler(workspace, graph)
    crons, jobs = recipe_schedules(scheduled_selections(graph), reconciler, gone)
    if names:
        jobs.append(
            dg.define_asset_job(
                BUILD_JOB,
                selection=dg.AssetSelection.assets(*names, *([LEADERBOARD] if scores else []), *gone),
                description="Everything that can be built; `merge-assets build` runs a part of it.",
            )
        )
    defined = {*names, *(base.key for base in graph.bases), *(each.key for each in graph.broken)}
    defined |= {LEADERBOARD} if scores else set()
    return dg.Definitions(
        assets=[*assets, *broken_specs],
        asset_checks=broken_checks,
        jobs=jobs,
        schedules=crons,
        sensors=[
            automation_sensor(reconciler),
            *build_base_sensors(workspace, graph.bases),
            *broken_sensors,
            *build_alerts(workspace, reconciler),
            *build_unfinished(workspace, reconciler),
            gone_sensor(defined),
        ],
        executor=choose_executor(workspace.settings),
    )


def scheduled_selections(graph: Graph) -> dict[str, list[dg.AssetKey]]:
    """For every cron of an automated recipe: its search, its variants, their scores and the leaderboard."""
    scores: dict[dg.AssetKey, list[dg.AssetKey]] = {}
    for scored in graph.scores:
        scores.setdefault(scored.model.key, []).append(scored.key)
    selections: dict[str, list[dg.AssetKey]] = {}
    for searched in graph.searches:
        if searched.recipe.schedule is not None and searched.automated:
            selections.setdefault(searched.recipe.schedule, []).append(searched.key)
    for node in graph.variants:
        cron = node.recipe.schedule
        if cron is None or not node.model.automated:
            continue
        keys = selections.setdefault(cron, [])
        keys += [node.model.key, *scores.get(node.model.key, ())]
    for keys in selections.values():
        if any(key.path[0] == "scores" for key in keys):
            keys.append(LEADERBOARD)
    return selections
