"""Hub references: one sensor asks for their commits and records an observation where one moved.

A look at an unmoved reference is one small request. Only when the commit is another one are the digests of its files
fetched, and only when those give another fingerprint the headers. A commit with the same bytes, of a README say, is
recorded with the same data version, which triggers nothing; builds then name a commit that the branch still has.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from merge_assets.errors import HubError, MergeAssetsError
from merge_assets.pipeline import access
from merge_assets.pipeline.hub_agenda import LONGEST_OUTAGE_PAUSE, LONGEST_PAUSE, Agenda
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.results import observation_metadata
from merge_assets.pipeline.versions import Recorded, last_metadata, observation_event, recorded
from merge_assets.reference import ModelReference
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.hub import Hub, HubHead

SENSOR = "hub_revisions"
INTERVAL_SECONDS = 20
# Other sensors wait for this one, and Dagster ends it after 60 s.
TICK_SECONDS = 20.0
WORKERS = 8
REQUESTS_PER_TICK = 25
"""References asked in one tick: 375 requests in five minutes, of the 500 that huggingface.co answers without a token."""

PINNED_SECONDS = 3600
"""How often it is looked up, without the network, that a pinned commit is still recorded."""

LIMITED = "hub.limited"
SILENT = frozenset({"hub.unreachable", "hub.offline"})
"""Kinds of errors that are of the Hub as a whole, not of one reference."""

Event = dg.AssetObservation | dg.AssetCheckEvaluation


@dataclass(frozen=True)
class Look:
    """What a look at a reference gave.

    Attributes:
        name: the reference.
        head: where it stands; ``None`` if it could not be asked.
        fingerprint: of the commit; empty if it is the recorded commit.
        metadata: of the observation; empty if the fingerprint is the recorded one.
        error: why it could not be read.
    """

    name: str
    head: "HubHead | None" = None
    fingerprint: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: MergeAssetsError | None = None


def build_hub_sensor(workspace: Workspace, nodes: Sequence[ModelNode]) -> dg.SensorDefinition:
    """The sensor over the Hub references of automated recipes."""
    poller = HubPoller(workspace, nodes)

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.assets(*[node.key for node in nodes]),
        description=f"Asks the Hub for the commits of {len(nodes)} models and records those that moved.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return poller.tick(context.instance, context.cursor, context.log.warning)

    return watch


class HubPoller:
    """Looks at Hub references, several at once, each at most once per tick.

    Args:
        workspace: whose Hub is asked.
        nodes: the references.
        clock: seconds since 1970.
    """

    def __init__(
        self, workspace: Workspace, nodes: Sequence[ModelNode], clock: Callable[[], float] = time.time
    ) -> None:
        self._workspace = workspace
        self._nodes = {str(node.reference): node for node in nodes}
        self._clock = clock
        self._found: queue.SimpleQueue[Look] = queue.SimpleQueue()
        self._busy: set[str] = set()  # looks that outlasted their tick; their results count in a later one
        self._first = True

    def tick(
        self,
        instance: dg.DagsterInstance,
        cursor: str | None,
        warn: Callable[[str], None],
        seconds: float = TICK_SECONDS,
    ) -> dg.SensorResult:
        """Ask what is due and say what to record.

        Args:
            instance: whose records tell what is known.
            cursor: of the last tick.
            warn: called when a reference becomes unreadable.
            seconds: after which the tick ends; what was not asked then comes first in the next one.
        """
        now = self._clock()
        agenda = Agenda.load(cursor, self._nodes)
        if self._first:
            self._first = False
            agenda.hurry()
        show = _Showing(self._nodes, agenda, now, warn)
        known: dict[str, Recorded | None] = {}
        wanted: list[str] = []
        for name in agenda.due(now):
            known[name] = recorded(instance, self._nodes[name].key)
            if _is_settled(self._nodes[name], known[name]):
                agenda.turns[name].wait = int(now) + PINNED_SECONDS
                show(name, access.PINNED)
            elif name not in self._busy:
                wanted.append(name)
            if len(wanted) == (1 if agenda.failures else REQUESTS_PER_TICK):
                break  # after an outage or a limit, one tries whether it is over
        looks = [look for look in self._look(wanted, known, seconds) if look.name in self._nodes]
        observations = []
        for look in _enter(agenda, looks, now, show):
            before = recorded(instance, self._nodes[look.name].key)
            if observation := _observation(instance, self._nodes[look.name], look, before):
                observations.append(observation)
        events: list[Event] = [*observations, *show.events]
        skip = None if events else dg.SkipReason(_summary(agenda, len(looks), now))
        return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=agenda.dump())

    def _look(self, names: Sequence[str], known: Mapping[str, Recorded | None], seconds: float) -> list[Look]:
        """Look at references in threads, for ``seconds`` at most; also what earlier looks found since."""
        hub = self._workspace.hub.impatient()
        stop = threading.Event()
        answers: list[bool] = []
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in names:
            waiting.put(name)

        def work() -> None:
            while not stop.is_set():
                try:
                    name = waiting.get_nowait()
                except queue.Empty:
                    return
                self._busy.add(name)
                look = _look_at(hub, self._nodes[name], known[name])
                problem = look.error.kind if look.error else ""
                answers.append(problem not in SILENT)
                if problem == LIMITED or not any(answers):
                    stop.set()
                self._found.put(look)
                self._busy.discard(name)

        # Not a pool: a process does not end before the threads of a pool do.
        workers = [threading.Thread(target=work, daemon=True, name="hub") for _ in names[:WORKERS]]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + seconds
        for worker in workers:
            worker.join(max(deadline - time.monotonic(), 0.0))
        stop.set()
        looks = []
        while not self._found.empty():
            looks.append(self._found.get())
        return looks


class _Showing:
    """Collects the events that show a reference in another state than its page does."""

    def __init__(self, nodes: Mapping[str, ModelNode], agenda: Agenda, now: float, warn: Callable[[str], None]) -> None:
        self.nodes = nodes
        self.agenda = agenda
        self.now = now
        self.warn = warn
        self.events: list[dg.AssetCheckEvaluation] = []

    def __call__(self, name: str, state: str, reason: str = "", since: float | None = None) -> None:
        turn = self.agenda.turns[name]
        if turn.shown == state:
            return
        turn.shown = state
        event = access.evaluation(self.nodes[name], state, reason, self.now if since is None else since)
        self.events.append(event)
        if not event.passed:
            self.warn(f"{name}: {event.description}")


def _look_at(hub: "Hub", node: ModelNode, known: Recorded | None) -> Look:
    """Ask for the commit, and for as much more as differs from what is known."""
    from merge_assets.api.observe import observe_revision

    name = str(node.reference)
    try:
        head = hub.head(node.reference)
        if known is not None and known.revision == head.commit:
            return Look(name, head)
        revision = hub.resolve(ModelReference(node.reference.path, head.commit))
        fingerprint = hub.fingerprint(revision)
        # An observation made by a step has no revision and no figures.
        if known is not None and known.revision is not None and known.data_version == fingerprint:
            return Look(name, head, fingerprint)
        return Look(name, head, fingerprint, observation_metadata(observe_revision(hub, revision)))
    except MergeAssetsError as error:
        return Look(name, error=error)
    except Exception as error:  # one reference must not end the looks at all others
        return Look(name, error=HubError(name, f"looking at it failed with {error!r}", "failing"))


def _enter(agenda: Agenda, looks: Sequence[Look], now: float, show: _Showing) -> list[Look]:
    """Enter looks into the agenda, and give back those that succeeded."""
    good = [look for look in looks if look.error is None]
    problems = {look.name: look.error.kind for look in looks if look.error is not None}
    # If the Hub answered anybody, if only with a refusal, silence is a matter of one reference.
    silent = not good and set(problems.values()) <= {*SILENT, LIMITED}
    if looks and not silent and LIMITED not in problems.values():
        agenda.recovered()
    for look in good:
        agenda.answered(look.name, now)
        assert look.head is not None
        show(look.name, access.state_of(show.nodes[look.name], look.head.name))
        if look.head.wait is not None:
            agenda.rest(now, look.head.wait)
    for look in looks:
        if look.error is None:
            continue
        problem, reason = problems[look.name], access.reason_of(look.error)
        agenda.asked(look.name)
        if problem != LIMITED and not silent:
            agenda.refused(look.name, now, problem, passing=look.error.may_pass)
            turn = agenda.turns[look.name]
            if not turn.passing or turn.failures >= access.SURE_AFTER:
                show(look.name, problem, reason, turn.since)
    limits = [look.error for look in looks if look.error is not None and look.error.kind == LIMITED]
    if limits:
        agenda.held(now, LONGEST_PAUSE, max((e.wait for e in limits if e.wait is not None), default=None))
    elif looks and silent:
        agenda.held(now, LONGEST_OUTAGE_PAUSE)
        if agenda.failures >= access.SURE_AFTER:
            error = next(look.error for look in looks if look.error is not None)
            for name, turn in agenda.turns.items():
                if turn.shown != access.PINNED:
                    show(name, error.kind, access.reason_of(error), agenda.since)
    return good


def _observation(
    instance: dg.DagsterInstance, node: ModelNode, look: Look, known: Recorded | None
) -> dg.AssetObservation | None:
    """The observation to record after a look; ``None`` if nothing differs from what is recorded."""
    if not look.fingerprint or look.head is None:
        return None
    if known is not None and (known.data_version, known.revision) == (look.fingerprint, look.head.commit):
        return None
    metadata = look.metadata or {**last_metadata(instance, node.key), "revision": look.head.commit}
    return observation_event(node.key, look.fingerprint, metadata)


def _is_settled(node: ModelNode, known: Recorded | None) -> bool:
    """Whether a reference names a commit, which cannot move, and that commit is recorded."""
    return node.reference.is_commit and known is not None and known.revision == node.reference.revision


def _summary(agenda: Agenda, asked: int, now: float) -> str:
    """One line for the sensor's page."""
    problems = sum(bool(turn.problem) for turn in agenda.turns.values())
    text = f"{asked} of {len(agenda.turns)} Hub references asked, nothing new"
    if problems:
        text += f"; {problems} cannot be read, see the check {access.CHECKS['hub']} of their assets"
    if agenda.wait > now:
        when = time.strftime("%H:%M:%S", time.gmtime(agenda.wait))
        text += f"; the Hub is not asked again before {when} UTC"
    return text
