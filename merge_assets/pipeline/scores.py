"""Scores: one asset per model and suite, for base checkpoints and variants alike."""

from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.errors import MergeAssetsError
from merge_assets.evaluation.results import EVALUATION_VERSION
from merge_assets.evaluation.suite import Suite
from merge_assets.identity import variant_line
from merge_assets.pipeline import gpu
from merge_assets.pipeline.automation import rebuild_on_change
from merge_assets.pipeline.graph import ScoresNode
from merge_assets.pipeline.inputs import InputVersions
from merge_assets.pipeline.keys import group_name, tag_value
from merge_assets.pipeline.render import code_references, one_sentence, scores_metadata
from merge_assets.pipeline.steps import is_refreshed, single_asset
from merge_assets.pipeline.work import run_work
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import current_scores, lm_eval_version

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores


def scores_spec(node: ScoresNode, suite: Suite) -> dg.AssetSpec:
    """The scores of one model as Dagster shows them."""
    tasks = "\n".join(f"- `{task.task}`: {task.metric}" for task in suite.tasks)
    return dg.AssetSpec(
        node.key,
        deps=[node.model.key],
        code_version=f"{suite.digest[:16]}-evaluation-{EVALUATION_VERSION}-lm-eval-{lm_eval_version()}",
        group_name=group_name("scores", suite.name),
        kinds={"lm_eval"},
        tags={"suite": tag_value(suite.name), "automation": "on" if node.automated else "off"},
        description=f"Scores of {node.model.title} on the suite {suite.name}.\n\n"
        f"{one_sentence(suite.description)}\n\n{tasks}",
        metadata={"dagster/code_references": code_references(suite.file, 1)},
        automation_condition=rebuild_on_change() if node.automated else None,
    )


def build_scores(workspace: Workspace, node: ScoresNode, op_name: str) -> dg.AssetsDefinition:
    """The asset that evaluates one model on one suite."""
    suite = workspace.suites[node.suite]
    device = workspace.settings.device
    # Base checkpoints first: their scores are what those of the variants are compared with.
    priority = {} if node.model.kind == "recipe" else {"dagster/priority": "1"}

    @single_asset(scores_spec(node, suite), op_name, pool=gpu.pool(device), op_tags={**gpu.op_tags(device), **priority})
    def scores(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from merge_assets import api

        inputs = InputVersions(context.instance, [node.model])
        scored = run_work(
            context,
            node.key,
            lambda work: api.score(
                workspace,
                node.model.reference,
                node.suite,
                commit=inputs.commits.get(node.model.reference),
                refresh=is_refreshed(context),
                work=work,
            ),
            unit="thousandths of tasks",
        )
        inputs.report_moved(context, scored.artifact.manifest.fingerprints)
        return dg.MaterializeResult(
            asset_key=node.key,
            data_version=dg.DataVersion(scored.artifact.version),
            metadata=scores_metadata(scored, parent_scores(workspace, node)),
        )

    return scores


def parent_scores(workspace: Workspace, node: ScoresNode) -> list["Scores"]:
    """Scores of the models that a variant was merged from, as far as the store has them and they are not out of date."""
    suite, store = workspace.suites[node.suite], workspace.store
    found: list[Scores] = []
    for parent in node.parents:
        variant = store.current(variant_line(parent.parts[0])) if parent.kind == "recipe" else None
        if parent.kind == "recipe" and variant is None:
            continue
        fingerprint = variant.version if variant else None
        try:
            scores = current_scores(store, workspace.names.identify(parent.reference), suite, fingerprint)
        except MergeAssetsError:
            continue
        if scores is not None:
            found.append(scores)
    return found
