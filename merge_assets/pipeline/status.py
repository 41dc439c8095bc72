"""What goes on in a project, what does not and why, and whether a person is needed: what `merge-assets status` shows.

It reads the Dagster home and changes nothing, not even what the reconciler remembers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.pipeline.access import check_keys
from merge_assets.pipeline.automation import AUTOMATION_SENSOR, Reconciler
from merge_assets.pipeline.checks import failed_checks
from merge_assets.pipeline.home import open_to_read
from merge_assets.pipeline.nodes import BrokenNode, Graph, ModelNode
from merge_assets.pipeline.reconciler.decide import Decision
from merge_assets.pipeline.reconciler.memory import Memory
from merge_assets.pipeline.reconciler.words import QUIET
from merge_assets.pipeline.selection import AssetsToBuild
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from dagster._core.scheduler.instigation import InstigatorState

SENSOR_DAEMON = "SENSOR"
_SHOWN = ("failed", "refused", "cancelled", "running", "queued", "requested", "waiting", "current", "by hand")
"""States in the order in which they are shown."""


@dataclass(frozen=True)
class StatusLine:
    """One asset of which there is something to say.

    Attributes:
        key: of the asset.
        state: what :mod:`merge_assets.pipeline.reconciler.decide` says.
        reason: in words.
        run: that makes it, or that failed last.
        trigger: who asked for that run.
        since: seconds since 1970 at which its step or its run began.
        percent: of its step.
        now: how far its step is and what it is at, in words.
        tries: how often it was tried in vain.
        next_try: seconds since 1970 at which it is tried again.
        late: whether it should have been made, or looked at again, by now.
        needs_person: whether it stays like this unless somebody looks.
    """

    key: str
    state: str
    reason: str
    run: str | None = None
    trigger: str | None = None
    since: float | None = None
    percent: float | None = None
    now: str | None = None
    tries: int | None = None
    next_try: float | None = None
    late: bool = False
    needs_person: bool = False


@dataclass(frozen=True)
class Status:
    """Of a whole project.

    Attributes:
        at: when it was read, in seconds since 1970.
        lines: all assets that are not simply up to date, what failed first.
        current: how many assets are up to date.
        by_hand: how many are out of date and not built by automation.
        broken: recipes and suites that cannot be used.
        automation: ``running``, or why nothing is made by itself.
    """

    at: float
    lines: tuple[StatusLine, ...]
    current: int
    by_hand: int
    broken: tuple[BrokenNode, ...]
    automation: str

    @property
    def stands_still(self) -> bool:
        """Whether there is something to be made by itself, and nothing that would make it."""
        moving = ("requested", "waiting", "queued")
        return self.automation != "running" and any(line.state in moving for line in self.lines)

    @property
    def needs_person(self) -> bool:
        return bool(self.broken) or self.stands_still or any(line.needs_person for line in self.lines)


def read_status(workspace: Workspace, graph: Graph, chosen: AssetsToBuild | None = None) -> Status:
    """The status of a project now.

    Args:
        workspace: the project.
        graph: all its nodes.
        chosen: the assets that are asked for; ``None`` for all, and for what is broken.

    Raises:
        SettingsError: if its Dagster home cannot be used.
    """
    with open_to_read(workspace.settings) as instance:
        return status_of(instance, graph, Reconciler(workspace, graph), chosen)


def status_of(
    instance: dg.DagsterInstance, graph: Graph, reconciler: Reconciler, chosen: AssetsToBuild | None = None
) -> Status:
    """The same, of an instance that is open already."""
    sensor = _sensor(instance)
    data = sensor.instigator_data if sensor is not None else None
    memory = Memory.decode(getattr(data, "cursor", None))
    facts, _, decisions = reconciler.look(instance, memory)
    bases = graph.bases if chosen is None else chosen.bases
    if chosen is not None:
        names = {key.to_user_string() for key in chosen.keys}
        decisions = tuple(each for each in decisions if each.key in names)
    late = {asset.key for asset in facts.assets if facts.is_late(asset)}
    lines = [_line(each, late) for each in decisions if each.state not in QUIET or each.key in late]
    lines += _unreadable(instance, bases)
    lines.sort(key=lambda line: (_SHOWN.index(line.state), line.key))
    return Status(
        at=facts.now,
        lines=tuple(_with_progress(instance, lines)),
        current=sum(each.state == "current" for each in decisions),
        by_hand=sum(each.state == "by hand" for each in decisions),
        broken=graph.broken if chosen is None else (),
        automation=_automation(instance, sensor),
    )


def _line(decision: Decision, late: Collection[str]) -> StatusLine:
    attempt, run = decision.attempt, decision.run
    step = run.steps.get(decision.key) if run is not None else None
    return StatusLine(
        key=decision.key,
        state=decision.state,
        reason=decision.reason,
        run=run.id if run is not None else attempt.run_id if attempt is not None else None,
        trigger=run.trigger if run is not None else None,
        since=step.started if step is not None else run.since if run is not None else None,
        tries=attempt.count if attempt is not None else None,
        next_try=attempt.next_at if attempt is not None and decision.state == "failed" else None,
        late=decision.key in late,
        needs_person=decision.state == "refused"
        or decision.key in late
        or (decision.state == "failed" and attempt is not None and attempt.needs_person),
    )


def _unreadable(instance: dg.DagsterInstance, bases: Iterable[ModelNode]) -> list[StatusLine]:
    """Base checkpoints that cannot be read, of those that sensors look at."""
    checks = check_keys(node for node in bases if node.automated)
    return [
        StatusLine(
            event.asset_key.to_user_string(), "refused", event.description or "it cannot be read", needs_person=True
        )
        for event in failed_checks(instance, checks)
    ]


def _with_progress(instance: dg.DagsterInstance, lines: Iterable[StatusLine]) -> list[StatusLine]:
    """Lines of running steps with what their work said last."""
    told: dict[tuple[str, str], Mapping[str, object]] = {}
    lines = list(lines)
    for run_id in {line.run for line in lines if line.state == "running" and line.run}:
        # The newest; each step that works says something every few seconds.
        page = instance.get_records_for_run(
            run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION, limit=200, ascending=False
        )
        for record in page.records:
            event = record.event_log_entry.asset_observation
            if event is not None:
                metadata = {name: value.value for name, value in event.metadata.items()}
                told.setdefault((run_id, event.asset_key.to_user_string()), metadata)
    return [_progressed(line, told.get((line.run or "", line.key), {})) for line in lines]


def _progressed(line: StatusLine, told: Mapping[str, object]) -> StatusLine:
    if line.state != "running":
        return line
    percent = told.get("percent")
    words = [str(told[name]) for name in ("progress", "now") if name in told]
    return replace(
        line, percent=float(percent) if isinstance(percent, (int, float)) else None, now=": ".join(words) or None
    )


def _sensor(instance: dg.DagsterInstance) -> InstigatorState | None:
    if instance.is_ephemeral:
        return None
    states = [state for state in instance.all_instigator_state() if state.instigator_name == AUTOMATION_SENSOR]
    return max(states, key=_last_tick, default=None)


def _last_tick(state: InstigatorState) -> float:
    return float(getattr(state.instigator_data, "last_tick_timestamp", None) or 0.0)


def _automation(instance: dg.DagsterInstance, sensor: InstigatorState | None) -> str:
    daemons = {} if instance.is_ephemeral else instance.get_daemon_statuses([SENSOR_DAEMON])
    if not daemons or not all(status.healthy for status in daemons.values()):
        return "the daemon does not run; `merge-assets ui` starts it"
    if sensor is not None and not sensor.is_running:
        return f"the sensor {AUTOMATION_SENSOR} is switched off in the UI"
    if sensor is not None and (ticks := instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, limit=1)):
        error = ticks[0].error
        if error is not None:
            return f"the sensor {AUTOMATION_SENSOR} fails: {error.message.strip().splitlines()[-1]}"
    return "running"


def ago(at: float | None, now: float | None = None) -> str:
    """How long ago, or in how long, in two digits or so."""
    if at is None:
        return ""
    seconds = abs((time.time() if now is None else now) - at)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
