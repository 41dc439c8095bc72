"""Scores: one asset per model and suite, for base checkpoints and variants alike."""

from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.errors import printable
from merge_assets.evaluation.otherwise import set_otherwise
from merge_assets.evaluation.results import EVALUATION_VERSION
from merge_assets.evaluation.suite import Suite
from merge_assets.identity import variant_line
from merge_assets.markup import escape_markdown
from merge_assets.pipeline import gpu
from merge_assets.pipeline.inputs import InputVersions
from merge_assets.pipeline.keys import group_name, tag_value
from merge_assets.pipeline.nodes import ModelNode, ScoresNode
from merge_assets.pipeline.progress import TASKS
from merge_assets.pipeline.render import code_references, one_sentence
from merge_assets.pipeline.results import scores_metadata
from merge_assets.pipeline.steps import is_refreshed, single_asset
from merge_assets.pipeline.work import run_work
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import KnownScores, lm_eval_version
from merge_assets.workspace.samples import StoredSamples
from merge_assets.workspace.staleness import Staleness
from merge_assets.workspace.trust import may_trust

if TYPE_CHECKING:
    from merge_assets.evaluation.leaderboard import Parent
    from merge_assets.store import Artifact


WHOLE = "whole"
"""Check of scores that nothing waits for: the tasks that have a value count."""


def scores_spec(node: ScoresNode, suite: Suite, trusted: str = "") -> dg.AssetSpec:
    """The scores of one model as Dagster shows them.

    Args:
        node: which.
        suite: its suite.
        trusted: the models whose code may be run for it.
    """
    tasks = "\n".join(f"- `{task.task}`: {task.metric}" for task in suite.tasks)
    return dg.AssetSpec(
        node.key,
        deps=[node.model.key],
        code_version=f"{suite.digest[:16]}-evaluation-{EVALUATION_VERSION}-lm-eval-{lm_eval_version()}"
        + (f"-code-of-{trusted}" if trusted else ""),
        group_name=group_name("scores", suite.name),
        kinds={"lm_eval"},
        tags={"suite": tag_value(suite.name), "automation": "on" if node.automated else "off"},
        description=f"Scores of {node.model.title} on the suite {suite.name}.\n\n"
        f"{one_sentence(suite.description)}\n\n{tasks}"
        + (f"\n\nMind: {one_sentence(escape_markdown(set_otherwise(suite.otherwise)))}" if suite.otherwise else "")
        + (f"\n\nMay run code of {trusted} (`trust_remote_code`), without a network." if trusted else ""),
        metadata={"dagster/code_references": code_references(suite.file, 1)},
    )


def build_scores(workspace: Workspace, node: ScoresNode, op_name: str) -> dg.AssetsDefinition:
    """The asset that evaluates one model on one suite."""
    suite = workspace.suite_of(node.suite, workspace.book.resolve(node.model.reference))
    trusted = printable(", ".join(may_trust(workspace, suite, node.model.reference)))
    device = workspace.settings.device
    # Base checkpoints first: their scores are what those of the variants are compared with.
    priority = {} if node.model.kind == "recipe" else {"dagster/priority": "1"}

    @single_asset(
        scores_spec(node, suite, trusted),
        op_name,
        checks=[dg.AssetCheckSpec(WHOLE, asset=node.key, description="Every task of the suite has a value.")],
        pool=gpu.pool(device),
        op_tags={**gpu.op_tags(device), **priority},
    )
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
            unit=TASKS,
        )
        inputs.report_moved(context, scored.artifact.manifest.fingerprints)
        known = KnownScores(workspace)
        parents = parents_of(workspace, node, scored.artifact, known)
        samples = StoredSamples(known, workspace.cache)
        return dg.MaterializeResult(
            asset_key=node.key,
            data_version=dg.DataVersion(scored.artifact.version),
            metadata=scores_metadata(scored, parents, _out_of_date(workspace, node.model), samples),
            check_results=[
                dg.AssetCheckResult(
                    asset_key=node.key,
                    check_name=WHOLE,
                    passed=not scored.scores.failures,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=printable(scored.scores.failed) or "every task has a value",
                )
            ],
        )

    return scores


def _out_of_date(workspace: Workspace, model: ModelNode) -> str | None:
    """Why what was scored is not what would be made now."""
    recipe = workspace.book.resolve(model.reference)
    return Staleness(workspace, thorough=False).reason(recipe) if recipe else None


def parents_of(
    workspace: Workspace, node: ScoresNode, scores: "Artifact", known: KnownScores | None = None
) -> "list[Parent]":
    """The models that the version which was scored was merged from, with the scores of their bytes."""
    from merge_assets.api import joined

    if node.model.kind != "recipe":
        return []
    known, suite = known or KnownScores(workspace), workspace.suites[node.suite]
    line = variant_line(node.model.parts[0])
    versions = (workspace.store.get(line, version) for version in scores.manifest.fingerprints.values())
    found = (joined.parents_of(workspace, known, variant, [suite]) for variant in versions if variant is not None)
    return [parent for parents in found for parent in parents]
