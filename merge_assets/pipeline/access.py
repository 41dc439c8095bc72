"""Whether a base checkpoint on the Hub or at a URL can be read, as a check of its asset: a badge, the reason and what to do.

A check and not an observation, because a model that was never readable has no data version, and an observation without
one would count as its first. The check blocks nothing: what was recorded before can still be built, from the cache or as soon
as the model is there again. Sensors evaluate it whenever the state is another than the page shows, and so does a run that
observes a model at a URL.
"""

import time
from collections.abc import Iterable, Mapping

import dagster as dg

from merge_assets.errors import HubError, MergeAssetsError
from merge_assets.pipeline.checks import build_checks, last_evaluations
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.workspace import Models, Workspace

CHECKS = {"hub": "hub_access", "url": "url_access"}
"""What the check is called, by the kind of model; others have none."""

REACHABLE = "reachable"
PINNED = "pinned"
RENAMED = "renamed to "

SURE_AFTER = 3
"""Failures in a row after which a problem that may pass by itself is shown."""

_GOOD = {
    "hub": {
        REACHABLE: "The Hub shows this model.",
        PINNED: "This commit was read and cannot change; the Hub is not asked again.",
    },
    "url": {REACHABLE: "All files of this model are there and can be read."},
}


def build_access_checks(workspace: Workspace, nodes: Iterable[ModelNode]) -> list[dg.AssetsDefinition]:
    """The checks that sensors evaluate without a run; run by hand, they look at once."""
    by_key = {node.key: node for node in nodes}

    def look(key: dg.AssetKey) -> dg.AssetCheckResult:
        node = by_key[key]
        try:
            state, reason = _state_now(workspace, node), ""
        except MergeAssetsError as error:
            state, reason = error.kind, reason_of(error)
        shown = evaluation(node, state, reason, time.time())
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=CHECKS[node.kind],
            passed=shown.passed,
            severity=shown.severity,
            description=shown.description,
            metadata=shown.metadata,
        )

    steps = {
        "hub": ("hub_models", "The Hub shows this model under this name."),
        "url": ("models_at_urls", "All files of this model are there and can be read."),
    }
    return [
        definition
        for kind, (step, text) in steps.items()
        for definition in build_checks(
            step, CHECKS[kind], [key for key, node in by_key.items() if node.kind == kind], look, text
        )
    ]


def _state_now(workspace: Workspace, node: ModelNode) -> str:
    """The state of a model that can be read; no weights are.

    Raises:
        MergeAssetsError: if it cannot be.
    """
    if node.kind == "hub":
        return state_of(node, workspace.hub.head(node.reference).name)
    Models(workspace).at_urls.open(node.reference)
    return REACHABLE


def check_keys(nodes: Iterable[ModelNode]) -> list[dg.AssetCheckKey]:
    """The checks of those models that have one."""
    return [dg.AssetCheckKey(node.key, CHECKS[node.kind]) for node in nodes if node.kind in CHECKS]


def news(instance: dg.DagsterInstance, states: Mapping[ModelNode, tuple[str, str]]) -> list[dg.AssetCheckEvaluation]:
    """The checks to record: those whose last evaluation says something else.

    Args:
        instance: that has these.
        states: state and reason, as of :func:`evaluation`, by model.
    """
    shown = last_evaluations(instance, check_keys(states))
    events = [evaluation(node, state, reason, time.time()) for node, (state, reason) in states.items()]
    return [event for event in events if _said(shown.get(event.asset_check_key)) != _said(event)]


def _said(event: dg.AssetCheckEvaluation | None) -> tuple[bool, str | None] | None:
    return None if event is None else (event.passed, event.description)


def state_of(node: ModelNode, name: str) -> str:
    """State of a reference that the Hub answers, under whatever name."""
    return REACHABLE if name == node.reference.path else f"{RENAMED}{name}"


def reason_of(error: MergeAssetsError) -> str:
    """What is wrong and what to do, of a model on the Hub without its name."""
    return error.reason if isinstance(error, HubError) else str(error)


def evaluation(node: ModelNode, state: str, reason: str, since: float) -> dg.AssetCheckEvaluation:
    """The check of a model as an event.

    Args:
        node: the model.
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
    good = _GOOD[node.kind].get(state)
    kind = {} if good or state.startswith(RENAMED) else {"error_kind": state}
    return dg.AssetCheckEvaluation(
        asset_key=node.key,
        check_name=CHECKS[node.kind],
        passed=good is not None,
        severity=dg.AssetCheckSeverity.WARN,
        description=good or f"{state}: {reason}",
        metadata={"state": state, **kind, "since": dg.MetadataValue.timestamp(float(since))},
        blocking=False,
    )
