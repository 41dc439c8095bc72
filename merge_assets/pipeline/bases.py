"""Base checkpoints: observed, never built, versioned by the digest of their bytes.

One asset function observes any of them in a run. Two sensors notice changes without a hand and without a run: one for
local checkpoints and those in a bucket, cheap because digests are cached by size, time and tag, and one for Hub references
(:mod:`merge_assets.pipeline.hub_polling`). What is wrong with one on the Hub or at a URL is a check of its asset
(:mod:`merge_assets.pipeline.access`).
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.errors import CheckpointError, MergeAssetsError, Stopped, in_one_line
from merge_assets.pipeline import access
from merge_assets.pipeline.hub_polling import build_hub_sensor
from merge_assets.pipeline.keys import group_name, stand_ins
from merge_assets.pipeline.looks import Looks
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.results import observation_metadata
from merge_assets.pipeline.versions import observation_event, recorded
from merge_assets.work import Work
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.api.observe import Observation

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
    """The observable asset of all base checkpoints, and the checks of those on the Hub and at URLs; empty if there are none."""
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
            node = by_key[key]
            try:
                observation = api.observe(workspace, node.reference)
            except Exception as error:  # one checkpoint never keeps the others from being observed
                problem = _problem(error)
                problems.append(problem)
                context.log.error(f"{node.title}: {problem}")
                _show(context.instance, node, problem)
                continue
            _show(context.instance, node, None)
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

    looked_at = [node for node in nodes if node.kind == "url" or (node.kind == "hub" and node.automated)]
    observed = base_checkpoints.with_attributes(asset_key_replacements={name: key for key, name in named.items()})
    return [observed, *access.build_access_checks(workspace, looked_at)]


def _problem(error: Exception) -> MergeAssetsError:
    return error if isinstance(error, MergeAssetsError) else CheckpointError(in_one_line(error))


def _state(problem: MergeAssetsError | None) -> tuple[str, str]:
    return (access.REACHABLE, "") if problem is None else (problem.kind, access.reason_of(problem))


def _show(instance: dg.DagsterInstance, node: ModelNode, problem: MergeAssetsError | None) -> None:
    """Record what a run found of a model at a URL; of one on the Hub, its sensor does."""
    if node.kind == "url":
        for event in access.news(instance, {node: _state(problem)}):
            instance.report_runless_asset_event(event)


def build_base_sensors(workspace: Workspace, nodes: Sequence[ModelNode]) -> list[dg.SensorDefinition]:
    """Sensors over the base checkpoints of automated recipes."""
    automated = [node for node in nodes if node.automated]
    local = [node for node in automated if node.kind in ("local", "url")]
    hub = [node for node in automated if node.kind == "hub"]
    sensors = [_local_sensor(workspace, local)] if local else []
    return [*sensors, build_hub_sensor(workspace, hub)] if hub else sensors


def _local_sensor(workspace: Workspace, nodes: Sequence[ModelNode]) -> dg.SensorDefinition:
    looks = Looks(workspace)

    @dg.sensor(
        name="local_checkpoints",
        minimum_interval_seconds=LOCAL_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*[node.key for node in nodes]),
        description=f"Looks at {len(nodes)} base checkpoints and records those whose bytes changed.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return changed_bases(workspace, nodes, context, looks)

    return watch


@dataclass
class _Memory:
    """The cursor of the sensor.

    Attributes:
        late: models that could not be digested within a tick, and are observed by a run.
        failures: times in a row that a problem which may pass by itself kept a model from being read.
    """

    late: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, cursor: str | None) -> "_Memory":
        try:
            return cls(**json.loads(cursor or "{}"))
        except (ValueError, TypeError):  # of another version
            return cls()

    def dump(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value})


def changed_bases(
    workspace: Workspace,
    nodes: Sequence[ModelNode],
    context: dg.SensorEvaluationContext,
    looks: Looks,
    seconds: float = TICK_SECONDS,
) -> dg.SensorResult:
    """One tick: an observation for every checkpoint whose fingerprint is not the recorded one, and the check of every one at a
    URL whose state is another than its page shows.

    A checkpoint that cannot be digested within ``seconds`` is observed by a run instead, once per change of files. A problem
    that may pass by itself is shown when it has lasted for some ticks.
    """
    deadline = time.monotonic() + seconds
    before, now = _Memory.load(context.cursor), _Memory()
    observations: list[dg.AssetObservation] = []
    late: list[dg.AssetKey] = []
    states: dict[ModelNode, tuple[str, str]] = {}
    looks.start((node for node in nodes if node.kind == "url"), deadline)
    for node, found in _looked_at(workspace, nodes, looks, deadline):
        name = node.key.to_user_string()
        problem: MergeAssetsError | None = None
        if isinstance(found, Stopped):
            late.append(node.key)
            continue
        if isinstance(found, Exception):
            problem = _problem(found)
            context.log.warning(f"{node.title}: {problem}")
            if problem.may_pass:
                now.failures[name] = before.failures.get(name, 0) + 1
        else:
            known = recorded(context.instance, node.key)
            if known is None or known.data_version != found.fingerprint:
                observations.append(observation_event(node.key, found.fingerprint, observation_metadata(found)))
        if node.kind == "url" and now.failures.get(name, access.SURE_AFTER) >= access.SURE_AFTER:
            states[node] = _state(problem)
    now.late = [key.to_user_string() for key in late]
    events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = [*observations]
    events += access.news(context.instance, states)
    if late and now.late != before.late:
        return dg.SensorResult(
            asset_events=events, run_requests=[dg.RunRequest(asset_selection=late)], cursor=now.dump()
        )
    skip = None if events else dg.SkipReason(f"{len(nodes)} base checkpoints, none changed")
    return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=now.dump())


def _looked_at(
    workspace: Workspace, nodes: Sequence[ModelNode], looks: Looks, deadline: float
) -> "Iterator[tuple[ModelNode, Observation | Exception]]":
    """What each model has now, or why that is not known; one never keeps the others from being looked at."""
    from merge_assets import api

    work = Work(should_stop=lambda: time.monotonic() > deadline)
    for node in sorted(nodes, key=lambda node: node.kind == "url"):  # those in folders meanwhile
        try:
            if node.kind == "url":
                yield node, looks.result(node, deadline)
            else:
                yield node, api.observe(workspace, node.reference, work=work)
        except Exception as error:
            yield node, error
