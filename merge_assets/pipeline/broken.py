"""Recipes that cannot become a variant: shown as an asset with the error, so that the others still load.

The check of such an asset fails in the UI. ``dg check defs`` and ``dagster definitions validate`` fail as a whole.
"""

import os
from collections.abc import Sequence

import dagster as dg

from merge_assets.errors import RecipeError
from merge_assets.pipeline.checks import build_checks
from merge_assets.pipeline.nodes import BrokenNode
from merge_assets.pipeline.render import fenced, one_sentence
from merge_assets.plan.model import digest_of

CHECK = "recipe_is_valid"
SENSOR_SECONDS = 300
_LONGEST_HEADLINE = 300


def refuse_when_validating(nodes: Sequence[BrokenNode]) -> None:
    """Fail if definitions are being validated and a recipe is broken.

    Raises:
        RecipeError: with every broken recipe's message.
    """
    if nodes and os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI"):
        raise RecipeError("\n".join(node.message for node in nodes))


def broken_spec(node: BrokenNode) -> dg.AssetSpec:
    """A broken recipe as Dagster shows it."""
    return dg.AssetSpec(
        node.key,
        group_name="broken",
        kinds={"yaml"},
        tags={"state": "broken"},
        description=f"{_headline(node)}\n\n{fenced(node.message)}",
        metadata={
            "error_kind": node.kind,
            "dagster/code_references": dg.CodeReferencesMetadataValue(
                code_references=[dg.LocalFileCodeReference(file_path=str(node.file), label=node.file.name)]
            ),
        },
    )


def _headline(node: BrokenNode) -> str:
    """That it is broken and why, in the one line that the catalogue shows."""
    why = " ".join(node.message.split()).replace(str(node.file), node.file.name).replace("`", "'")
    shown = why if len(why) <= _LONGEST_HEADLINE else f"{why[:_LONGEST_HEADLINE]} …"
    return one_sentence(f"BROKEN, nothing is built of {node.name}: {shown}")


def build_broken(
    nodes: Sequence[BrokenNode],
) -> tuple[list[dg.AssetSpec], list[dg.AssetsDefinition], list[dg.SensorDefinition]]:
    """Assets, their failing checks, and the sensor that reports the failure without a run."""
    if not nodes:
        return [], [], []

    @dg.sensor(
        name="broken_recipes_sensor",
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*[node.key for node in nodes]),
        description="Marks the checks of broken recipes as failed.",
    )
    def report(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        cursor = digest_of([node.message for node in nodes])
        if context.cursor == cursor:
            return dg.SensorResult(skip_reason=dg.SkipReason("nothing new"), cursor=cursor)
        return dg.SensorResult(asset_events=broken_evaluations(nodes), cursor=cursor)

    by_key = {node.key: node for node in nodes}

    def look(key: dg.AssetKey) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=CHECK,
            passed=False,
            description=by_key[key].message,
            metadata={"error_kind": by_key[key].kind},
        )

    checks = build_checks("broken_recipes", CHECK, list(by_key), look, "The recipe file can be read.")
    return [broken_spec(node) for node in nodes], checks, [report]


def broken_evaluations(nodes: Sequence[BrokenNode]) -> list[dg.AssetCheckEvaluation]:
    """The failed check of each node, as an event."""
    return [
        dg.AssetCheckEvaluation(
            asset_key=node.key,
            check_name=CHECK,
            passed=False,
            description=node.message,
            metadata={"error_kind": node.kind},
        )
        for node in nodes
    ]
