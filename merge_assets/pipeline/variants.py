"""Merged variants: one asset per recipe, with the checks of its artifact inside the same step.

A check of its own step would download the artifact again.
"""

from collections.abc import Mapping

import dagster as dg

from merge_assets.errors import printable
from merge_assets.pipeline import gpu
from merge_assets.pipeline.inputs import InputVersions
from merge_assets.pipeline.keys import group_name, search_key, tag_value
from merge_assets.pipeline.lateness import freshness_policy
from merge_assets.pipeline.nodes import VariantNode
from merge_assets.pipeline.render import check_metadata, code_references, recipe_description
from merge_assets.pipeline.results import variant_metadata
from merge_assets.pipeline.steps import is_forced, single_asset
from merge_assets.pipeline.versions import recorded
from merge_assets.pipeline.work import run_work
from merge_assets.plan.code import trusted_in
from merge_assets.recipe import FoundBy
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import variant_code

CHECKS: Mapping[str, str] = {
    "finite": "Every element of every tensor is a finite number.",
    "config_agrees": "config.json describes exactly the tensors that were written.",
    "loads_and_generates": "transformers loads the variant with nothing missing or unexpected, and it generates text.",
}


def variant_spec(node: VariantNode) -> dg.AssetSpec:
    """A variant as Dagster shows it."""
    recipe = node.recipe
    return dg.AssetSpec(
        node.model.key,
        deps=node.deps,
        code_version=variant_code(recipe, node.folded),
        group_name=group_name("variants", node.group),
        kinds={"safetensors"},
        tags={**recipe.tags, **_fixed_tags(node)},
        owners=list(recipe.owners) or None,
        freshness_policy=freshness_policy(recipe),
        description=recipe_description(recipe, node.folded),
        metadata={
            **({"folds_in": ", ".join(inner.name for inner in node.folded)} if node.folded else {}),
            **({"sweep_values": dg.JsonMetadataValue(recipe.swept.values)} if recipe.swept else {}),
            "recipe_digest": recipe.digest,
            "recipe_file": recipe.source.file.name,
            "dagster/code_references": code_references(recipe.source.file, recipe.source.line),
        },
    )


def build_variant(workspace: Workspace, node: VariantNode, op_name: str) -> dg.AssetsDefinition:
    """The asset that merges one recipe."""
    key = node.model.key
    device = node.recipe.device if node.recipe.device != "auto" else workspace.settings.device

    @single_asset(
        variant_spec(node),
        op_name,
        checks=[dg.AssetCheckSpec(name, asset=key, description=text, blocking=True) for name, text in CHECKS.items()],
        pool=gpu.pool(device),
        op_tags=gpu.op_tags(device),
    )
    def variant(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None] | None:
        from merge_assets import api

        if node.recipe.found is not None and (why := found_otherwise(context.instance, node.recipe.found)):
            context.log.info(f"{why}; nothing to do")
            return None
        inputs = InputVersions(context.instance, (*node.parents, *node.adapters))
        built = run_work(
            context,
            key,
            lambda work: api.build(workspace, node.recipe, commits=inputs.commits, force=is_forced(context), work=work),
        )
        # Not the inputs of the manifest: bytes that came out the same before keep the manifest of that time.
        # The fingerprint of a model with an adapter is that of the model; the adapter has its own.
        used = {model.reference.partition("+")[0]: model.fingerprint or "" for model in built.plan.models}
        inputs.report_moved(context, used)
        return dg.MaterializeResult(
            asset_key=key,
            data_version=dg.DataVersion(built.artifact.version),
            metadata=variant_metadata(node.recipe, built, trusted_in(workspace.book, node.recipe)),
            check_results=[
                dg.AssetCheckResult(
                    asset_key=key,
                    check_name=outcome.name,
                    passed=outcome.passed,
                    description=printable(outcome.description),
                    metadata=check_metadata(outcome.metadata),
                )
                for outcome in built.checks
            ],
        )

    return variant


def _fixed_tags(node: VariantNode) -> Mapping[str, str]:
    recipe = node.recipe
    return {
        "method": tag_value(recipe.merge_method),
        "automation": "on" if node.model.automated else "off",
        **({"sweep": tag_value(recipe.swept.sweep)} if recipe.swept else {}),
        **({"search": tag_value(recipe.found.search)} if recipe.found else {}),
    }


def found_otherwise(instance: dg.DagsterInstance, found: FoundBy) -> str | None:
    """Why a recipe is not what its search says any more, where the search has come to another end since this was planned."""
    key = search_key(found.search)
    known = recorded(instance, key)
    if known is None or known.data_version == found.version:
        return None
    return f"{key.to_user_string()} has found other values since, of which this is another recipe"
