"""Whether a Hub reference can be read, as a check of its asset: a badge, the reason and what to do.

A check and not an observation, because a model that was never readable has no data version, and an observation without
one would count as its first. The check blocks nothing: what was recorded before can still be built from the cache.
"""

import time
from collections.abc import Sequence

import dagster as dg

from merge_assets.errors import HubError, MergeAssetsError
from merge_assets.pipeline.checks import build_checks
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.workspace import Workspace

CHECK = "hub_access"

REACHABLE = "reachable"
PINNED = "pinned"
RENAMED = "renamed to "

_GOOD = {
    REACHABLE: "The Hub shows this model.",
    PINNED: "This commit was read and cannot change; the Hub is not asked again.",
}


def build_hub_checks(workspace: Workspace, nodes: Sequence[ModelNode]) -> list[dg.AssetsDefinition]:
    """The checks that the sensor evaluates without a run; run by hand, they look at once."""
    by_key = {node.key: node for node in nodes}

    def look(key: dg.AssetKey) -> dg.AssetCheckResult:
        node = by_key[key]
        try:
            state, reason = state_of(node, workspace.hub.head(node.reference).name), ""
        except MergeAssetsError as error:
            state, reason = error.kind, reason_of(error)
        shown = evaluation(node, state, reason, time.time())
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=CHECK,
            passed=shown.passed,
            severity=shown.severity,
            description=shown.description,
            metadata=shown.metadata,
        )

    return build_checks("hub_models", CHECK, list(by_key), look, "The Hub shows this model under this name.")


def state_of(node: ModelNode, name: str) -> str:
    """State of a reference that the Hub answers, under whatever name."""
    return REACHABLE if name == node.reference.path else f"{RENAMED}{name}"


def reason_of(error: MergeAssetsError) -> str:
    """What is wrong and what to do, without the name of the model."""
    return error.reason if isinstance(error, HubError) else str(error)


def evaluation(node: ModelNode, state: str, reason: str, since: float) -> dg.AssetCheckEvaluation:
    """The check of a reference as an event.

    Args:
        node: the reference.
        state: :data:`REACHABLE`, :data:`PINNED`, :data:`RENAMED` with the new name, or the kind of an error.
        reason: what is wrong and what to do; empty without a problem.
        since: when the state began, in seconds since 1970.
    """
    if state.startswith(RENAMED):
        new = state.removeprefix(RENAMED)
        wanted = f"{new}@{node.reference.revision}" if node.reference.revision else new
        reason = (
            f"the model is called {new} now; write {wanted} in the recipe. Until the old name is given to "
            "another model, it still leads there"
        )
    good = _GOOD.get(state)
    kind = {} if good or state.startswith(RENAMED) else {"error_kind": state}
    return dg.AssetCheckEvaluation(
        asset_key=node.key,
        check_name=CHECK,
        passed=good is not None,
        severity=dg.AssetCheckSeverity.WARN,
        description=good or f"{state}: {reason}",
        metadata={"state": state, **kind, "since": dg.MetadataValue.timestamp(float(since))},
        blocking=False,
    )
