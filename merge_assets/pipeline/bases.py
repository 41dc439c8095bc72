"""Base checkpoints: observed, never built, versioned by the digest of their bytes.

One asset function observes any of them in a run. Two sensors notice changes without a hand and without a run: one for
local checkpoints and those in a bucket, cheap because digests are cached by size, time and tag, and one for Hub references
(:mod:`merge_assets.pipeline.hub_polling`).
"""

import time
from collections.abc import Iterator, Sequence

import dagster as dg

from merge_assets.errors import CheckpointError, MergeAssetsError, Stopped, in_one_line
from merge_assets.pipeline.hub_access import build_hub_checks
from merge_assets.pipeline.hub_polling import build_hub_sensor
from merge_assets.pipeline.keys import group_name, stand_ins
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.results import observation_metadata
from merge_assets.pipeline.versions import observation_event, recorded
from merge_assets.work import Work
from merge_assets.workspace import Workspace

OBSERVE_OP = "base_checkpoints"
LOCAL_INTERVAL_SECONDS = 30
# Dagster ends a sensor evaluation after 60 s. Digests of finished files are cached, so the next tick goes on.
TICK_SECONDS = 40.0


def base_spec(node: ModelNode) -> dg.AssetSpec:
    """A base checkpoint as Dagster shows it."""
    where = {"hub": "on the Hugging Face Hub", "url": "in a bucket"}.get(node.kind, "in a local folder")
    return dg.AssetSpec(
        node.key,
        group_name=group_name("checkpoints", node.kind),
        kinds={"huggingface"} if node.kind == "hub" else {"safetensors"},
        description=f"Base checkpoint {node.title} {where}.\n\n"
        "Its version is the digest of its weights, config and tokenizer; it changes if and only if their bytes do.",
        metadata={"reference": str(node.reference)},
        tags={"automation": "on" if node.automated else "off"},
    )


def build_bases(workspace: Workspace, nodes: Sequence[ModelNode]) -> list[dg.AssetsDefinition]:
    """The observable asset of all base checkpoints, and the checks of those on the Hub; empty if there are none."""
    if not nodes:
        return []
    by_key = {node.key: node for node in nodes}
    named = stand_ins(by_key)

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
        name=OBSERVE_OP,
        specs=[base_spec(node).replace_attributes(key=named[node.key]) for node in nodes],
        can_subset=True,
        description="Reads the fingerprints of base checkpoints.",
    )
    def base_checkpoints(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        from merge_assets import api

        problems: list[MergeAssetsError] = []
        for key in sorted(context.selected_asset_keys):
            try:
                observation = api.observe(workspace, by_key[key].reference)
            except Exception as error:  # one checkpoint never keeps the others from being observed
                problem = error if isinstance(error, MergeAssetsError) else CheckpointError(in_one_line(error))
                problems.append(problem)
                context.log.error(f"{by_key[key].title}: {problem}")
                continue
            yield dg.ObserveResult(
                asset_key=key,
                data_version=dg.DataVersion(observation.fingerprint),
                metadata=observation_metadata(observation),
            )
        if problems:
            raise dg.Failure(
                description="\n".join(map(str, problems)),
                metadata={"error_kind": ", ".join(sorted({problem.kind for problem in problems}))},
            )

    polled = [node for node in nodes if node.automated and node.kind == "hub"]
    observed = base_checkpoints.with_attributes(asset_key_replacements={name: key for key, name in named.items()})
    return [observed, *build_hub_checks(workspace, polled)]


def build_base_sensors(workspace: Workspace, nodes: Sequence[ModelNode]) -> list[dg.SensorDefinition]:
    """Sensors over the base checkpoints of automated recipes."""
    automated = [node for node in nodes if node.automated]
    local = [node for node in automated if node.kind in ("local", "url")]
    hub = [node for node in automated if node.kind == "hub"]
    sensors = [_local_sensor(workspace, local)] if local else []
    return [*sensors, build_hub_sensor(workspace, hub)] if hub else sensors


def _local_sensor(workspace: Workspace, nodes: Sequence[ModelNode]) -> dg.SensorDefinition:
    @dg.sensor(
        name="local_checkpoints",
        minimum_interval_seconds=LOCAL_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*[node.key for node in nodes]),
        description=f"Looks at {len(nodes)} base checkpoints and records those whose bytes changed.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return changed_bases(workspace, nodes, context)

    return watch


def changed_bases(
    workspace: Workspace,
    nodes: Sequence[ModelNode],
    context: dg.SensorEvaluationContext,
    seconds: float = TICK_SECONDS,
) -> dg.SensorResult:
    """One tick: an observation for every checkpoint whose fingerprint is not the recorded one.

    A checkpoint that cannot be digested within ``seconds`` is observed by a run instead, once per change of files.
    """
    from merge_assets import api

    deadline = time.monotonic() + seconds
    work = Work(should_stop=lambda: time.monotonic() > deadline)
    events: list[dg.AssetObservation] = []
    late: list[dg.AssetKey] = []
    for node in nodes:
        try:
            observation = api.observe(workspace, node.reference, work=work)
        except Stopped:
            late.append(node.key)
            continue
        except Exception as error:  # one checkpoint never keeps the others from being looked at
            context.log.warning(f"{node.title}: {in_one_line(error)}")
            continue
        known = recorded(context.instance, node.key)
        if known is None or known.data_version != observation.fingerprint:
            events.append(observation_event(node.key, observation.fingerprint, observation_metadata(observation)))
    if late and context.cursor != (cursor := ",".join(key.to_user_string() for key in late)):
        return dg.SensorResult(asset_events=events, run_requests=[dg.RunRequest(asset_selection=late)], cursor=cursor)
    skip = None if events else dg.SkipReason(f"{len(nodes)} base checkpoints, none changed")
    return dg.SensorResult(asset_events=events, skip_reason=skip, cursor="" if not late else context.cursor)
