"""SNR analyses of the models whose layers a recipe prunes by them."""

import hashlib

import dagster as dg

from merge_assets.analysis.layers import ANALYSIS_VERSION, TABLE
from merge_assets.pipeline.inputs import InputVersions
from merge_assets.pipeline.keys import group_name
from merge_assets.pipeline.nodes import AnalysisNode
from merge_assets.pipeline.results import analysis_metadata
from merge_assets.pipeline.steps import is_refreshed, single_asset
from merge_assets.pipeline.work import run_work
from merge_assets.workspace import Workspace


def analysis_spec(node: AnalysisNode) -> dg.AssetSpec:
    """An analysis as Dagster shows it."""
    modules = ", ".join(node.modules)
    return dg.AssetSpec(
        node.key,
        deps=[node.model.key],
        code_version=f"{ANALYSIS_VERSION}-{hashlib.sha256(modules.encode()).hexdigest()[:16]}",
        group_name=group_name("analyses"),
        kinds={"table"},
        tags={"automation": "on" if node.model.automated else "off"},
        description=f"Signal-to-noise ratio of {modules} in every layer of {node.model.title}.\n\n"
        "From the singular values of each weight. A recipe chooses by it which layers to remove.",
    )


def build_analysis(workspace: Workspace, node: AnalysisNode, op_name: str) -> dg.AssetsDefinition:
    """The asset that analyses one model."""

    @single_asset(analysis_spec(node), op_name)
    def analysis(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from merge_assets import api

        inputs = InputVersions(context.instance, [node.model])
        analysed = run_work(
            context,
            node.key,
            lambda work: api.analyse(
                workspace,
                node.model.reference,
                modules=node.modules,
                commit=inputs.commits.get(node.model.reference),
                refresh=is_refreshed(context),
                work=work,
            ),
        )
        inputs.report_moved(context, analysed.artifact.manifest.fingerprints)
        return dg.MaterializeResult(
            asset_key=node.key,
            data_version=dg.DataVersion(analysed.artifact.version),
            metadata=analysis_metadata(
                analysed, analysed.artifact.directory(workspace.cache / "artifacts", checked=[TABLE])
            ),
        )

    return analysis
