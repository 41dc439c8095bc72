"""Bringing assets up to date in one Dagster run: what `merge-assets build` does.

Base checkpoints are observed first, because a variant built from an unobserved one would count as stale as soon as it
is observed. What is up to date is left alone.
"""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from merge_assets.errors import MergeAssetsError
from merge_assets.pipeline import location
from merge_assets.pipeline.graph import ModelNode
from merge_assets.pipeline.keys import op_names
from merge_assets.pipeline.render import observation_metadata
from merge_assets.pipeline.selection import reasons_to_build, select
from merge_assets.pipeline.versions import recorded, report_observation, topological
from merge_assets.settings import Settings
from merge_assets.sources import Workspace

RUN_TAG = "merge_assets/build"
POLL_SECONDS = 0.5

OBSERVED = "observed"
BUILT = "built"
REUSED = "reused from the store"
UP_TO_DATE = "up to date"
FAILED = "failed"
SKIPPED = "skipped"


@dataclass(frozen=True)
class Outcome:
    """What became of one asset.

    Attributes:
        key: path of the asset key joined with ``/``.
        state: one of the constants of this module.
        seconds: wall time of its step; 0 without one.
        message: why it was built, or why it failed.
    """

    key: str
    state: str
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Materialised:
    """What one call of :func:`materialise` did.

    Attributes:
        run_id: of the Dagster run; ``None`` if everything was up to date.
        outcomes: base checkpoints first, then assets in build order.
    """

    run_id: str | None
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> bool:
        return any(outcome.state in (FAILED, SKIPPED) for outcome in self.outcomes)

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)


Report = Callable[[Outcome, int, int], None]
"""Called with an outcome as soon as it is known, how many are known, and how many there will be."""


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The configured Dagster instance: that of ``DAGSTER_HOME``, else the project's own in ``var/dagster``."""
    prepare_home(settings)
    return dg.DagsterInstance.get()


def prepare_home(settings: Settings) -> Path:
    """Make the project's Dagster home if ``DAGSTER_HOME`` names none, and point ``DAGSTER_HOME`` at it."""
    if given := os.environ.get("DAGSTER_HOME"):
        return Path(given)
    home = settings.path("var/dagster")
    home.mkdir(parents=True, exist_ok=True)
    template, target = settings.path("dagster.yaml"), home / "dagster.yaml"
    if template.is_file() and not target.exists():
        shutil.copyfile(template, target)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def materialise(
    names: list[str],
    *,
    instance: dg.DagsterInstance | None = None,
    with_scores: bool = True,
    force: bool = False,
    report: Report | None = None,
) -> Materialised:
    """Bring recipes of the project around the working directory up to date, with all that they need.

    Args:
        names: recipes; none means those that automation may build.
        instance: where runs and versions are recorded; default: the configured instance.
        with_scores: also evaluate and rank.
        force: run every selected asset; the store still gives back what it has.
        report: see :data:`Report`.

    Raises:
        RecipeError: for a name that is no usable recipe.
    """
    workspace, graph = location.workspace(), location.graph()
    selection = select(graph, names, with_scores=with_scores)
    instance = instance or open_instance(workspace.settings)
    outcomes: list[Outcome] = []
    total = len(selection.keys) + len(selection.bases)

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if report is not None:
            report(outcome, len(outcomes), total)

    unreadable = set()
    for base in selection.bases:
        outcome = _observe(workspace, instance, base)
        tell(outcome)
        if outcome.state == FAILED:
            unreadable.add(base.key)
    specs = topological(spec for spec in location.definitions().resolve_all_asset_specs() if spec.key in selection.keys)
    inputs = {dep.asset_key for spec in specs for dep in spec.deps}
    known = {key: recorded(instance, key) for key in selection.keys | inputs}
    reasons = reasons_to_build(workspace, graph, specs, known)
    if force:
        reasons = {spec.key: reasons.get(spec.key, "asked for") for spec in specs}
    hopeless = _downstream(specs, unreadable)
    wanted = []
    for spec in specs:
        if spec.key in hopeless:
            tell(Outcome(spec.key.to_user_string(), SKIPPED, message="a base checkpoint cannot be read"))
        elif spec.key in reasons:
            wanted.append(spec.key)
        else:
            tell(Outcome(spec.key.to_user_string(), UP_TO_DATE))
    if not wanted:
        return Materialised(None, tuple(outcomes))
    run_id = _execute(instance, wanted, reasons, tell)
    return Materialised(run_id, tuple(outcomes))


def _observe(workspace: Workspace, instance: dg.DagsterInstance, base: ModelNode) -> Outcome:
    from merge_assets import api

    name = base.key.to_user_string()
    started = time.monotonic()
    try:
        observation = api.observe(workspace, base.reference)
    except MergeAssetsError as error:
        return Outcome(name, FAILED, time.monotonic() - started, str(error))
    known = recorded(instance, base.key)
    changed = known is None or known.data_version != observation.fingerprint
    if changed or known is None or known.revision != observation.revision:
        report_observation(instance, base.key, observation.fingerprint, observation_metadata(observation))
    message = "first seen" if known is None else "changed" if changed else ""
    return Outcome(name, OBSERVED if changed else UP_TO_DATE, time.monotonic() - started, message)


def _execute(
    instance: dg.DagsterInstance,
    keys: list[dg.AssetKey],
    reasons: Mapping[dg.AssetKey, str],
    tell: Callable[[Outcome], None],
) -> str:
    """Run the assets; tells every outcome, in the order in which steps end."""
    tag = uuid.uuid4().hex
    watcher = _Watcher(instance, tag, keys, reasons, tell)
    watcher.start()
    try:
        result = dg.execute_job(
            dg.reconstructable(location.build_job),
            instance=instance,
            asset_selection=keys,
            tags={RUN_TAG: tag, "trigger": "merge-assets build"},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
    finally:
        watcher.finish()
    with result:
        return result.run_id


class _Watcher:
    """Reads the events of a run while it goes on; the multiprocess executor gives nothing back before the end."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        tag: str,
        keys: list[dg.AssetKey],
        reasons: Mapping[dg.AssetKey, str],
        tell: Callable[[Outcome], None],
    ) -> None:
        self.instance = instance
        self.tag = tag
        self.tell = tell
        self.reasons = {key.to_user_string(): reason for key, reason in reasons.items()}
        self.open = {name: key.to_user_string() for key, name in _step_keys(keys).items()}
        self.started: dict[str, float] = {}
        self.states: dict[str, str] = {}
        self.cursor: str | None = None
        self.run_id: str | None = None
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def finish(self) -> None:
        """Read what is left, and tell of the assets that never started."""
        self.done.set()
        self.thread.join()
        self._read()
        for key in self.open.values():
            self.tell(Outcome(key, SKIPPED, message="an input failed, or the run ended early"))

    def _watch(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            self._read()

    def _read(self) -> None:
        if self.run_id is None:
            runs = self.instance.get_runs(filters=dg.RunsFilter(tags={RUN_TAG: self.tag}), limit=1)
            if not runs:
                return
            self.run_id = runs[0].run_id
        while True:
            page = self.instance.get_records_for_run(self.run_id, cursor=self.cursor, limit=1000)
            for record in page.records:
                self._take(record.event_log_entry)
            self.cursor = page.cursor or self.cursor
            if not page.has_more:
                return

    def _take(self, entry: dg.EventLogEntry) -> None:
        step, event = entry.step_key, entry.dagster_event
        if event is None or step not in self.open:
            return
        if event.event_type == dg.DagsterEventType.STEP_START:
            self.started[step] = entry.timestamp
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION and entry.asset_materialization:
            value = entry.asset_materialization.metadata.get("outcome")
            self.states[step] = BUILT if value is None or value.value == "built" else REUSED
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            self._close(step, entry.timestamp, self.states.get(step, BUILT), None)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            self._close(step, entry.timestamp, FAILED, _failure(event))

    def _close(self, step: str, now: float, state: str, message: str | None) -> None:
        key = self.open.pop(step)
        text = self.reasons.get(key, "") if message is None else message
        self.tell(Outcome(key, state, now - self.started.get(step, now), text))


def _failure(event: dg.DagsterEvent) -> str:
    """Why a step failed, in the words of the error that began it."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "the step failed"
    if error.cls_name == "DagsterExecutionInterruptedError":
        return "stopped"
    if error.cls_name == "ChildProcessCrashException":
        return "its process was killed, by a stop or because memory ran out"
    return error.message.strip()


def _step_keys(keys: list[dg.AssetKey]) -> Mapping[dg.AssetKey, str]:
    graph = location.graph()
    every = [*(n.key for n in graph.analyses), *(n.model.key for n in graph.variants), *(n.key for n in graph.scores)]
    names = {**op_names(every)}
    return {key: names.get(key, "__".join(key.path)) for key in keys}


def _downstream(specs: list[dg.AssetSpec], roots: set[dg.AssetKey]) -> set[dg.AssetKey]:
    """Everything made, directly or not, of ``roots``, save what only collects; ``specs`` in topological order."""
    reached = set(roots)
    for spec in specs:
        if spec.key.path[0] != "leaderboard" and any(dep.asset_key in reached for dep in spec.deps):
            reached.add(spec.key)
    return reached - roots
