"""What the layers of models are worth on a text, where a recipe prunes them by that."""

from contextlib import suppress

import dagster as dg

from merge_assets.analysis.importance import TABLE
from merge_assets.errors import MergeAssetsError
from merge_assets.pipeline import gpu
from merge_assets.pipeline.inputs import InputVersions
from merge_assets.pipeline.keys import group_name
from merge_assets.pipeline.nodes import ImportanceNode
from merge_assets.pipeline.progress import PASSES
from merge_assets.pipeline.results import importance_metadata
from merge_assets.pipeline.steps import is_refreshed, single_asset
from merge_assets.pipeline.work import run_work
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import importance_key

_WHAT = {
    "activations": "Block influence and angular distances of every layer",
    "perplexity": "Perplexity without each layer",
}


def importance_spec(node: ImportanceNode) -> dg.AssetSpec:
    """A measurement as Dagster shows it."""
    return dg.AssetSpec(
        node.key,
        deps=[node.model.key],
        code_version=importance_key(None, node.kind, node.sample, node.text)[:32],
        group_name=group_name("analyses"),
        kinds={"table"},
        tags={"automation": "on" if node.model.automated else "off"},
        description=f"{_WHAT[node.kind]} of {node.model.title} on {node.sample.file}.\n\n"
        "From running the model on a text, one layer in memory at a time. A recipe chooses by it which layers to remove.",
    )


def build_importance(workspace: Workspace, node: ImportanceNode, op_name: str) -> dg.AssetsDefinition:
    """The asset that measures one model on one text."""

    device = workspace.settings.device

    @single_asset(importance_spec(node), op_name, pool=gpu.pool(device), op_tags=gpu.op_tags(device))
    def importance(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from merge_assets import api

        inputs = InputVersions(context.instance, [node.model])
        with suppress(MergeAssetsError):  # what is wrong with the model, the work will say
            context.log.info(str(api.importance_cost(workspace, node.model.reference, node.kind, node.sample)))
        measured = run_work(
            context,
            node.key,
            lambda work: api.measure_importance(
                workspace,
                node.model.reference,
                node.kind,
                node.sample,
                commit=inputs.commits.get(node.model.reference),
                refresh=is_refreshed(context),
                work=work,
            ),
            unit=PASSES,
        )
        inputs.report_moved(context, measured.artifact.manifest.fingerprints)
        return dg.MaterializeResult(
            asset_key=node.key,
            data_version=dg.DataVersion(measured.artifact.version),
            metadata=importance_metadata(
                measured, measured.artifact.directory(workspace.cache / "artifacts", checked=[TABLE])
            ),
        )

    return importance
