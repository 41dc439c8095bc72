"""Following a run of this process by the events that it records."""

import _thread
import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.pipeline.outcome import (
    BUILT,
    CANCELLED,
    FAILED,
    HOW,
    RUNNING,
    SKIPPED,
    STOPPED,
    WAITING,
    Ending,
    Outcome,
)

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo

RUN_TAG = ".dagster/merge_assets_build"
"""Not shown in the UI, as its prefix says."""
POLL_SECONDS = 0.5

_EVENT = dg.DagsterEventType
_CRASH = re.compile(r"(was terminated by signal [^.]+|unexpectedly exited with code -?\d+)")
_CAUSED_BY = "The above exception was caused by the following exception:\n"
_TRACE = re.compile(r"\n+(Stack Trace:|The above exception )")


class Watcher:
    """Reads the events of a run while it goes on; the multiprocess executor gives nothing back before the end.

    A run that is cancelled elsewhere, or marked as failed, is stopped as by Ctrl-C: Dagster itself can reach only runs
    that it has launched.

    Args:
        instance: that of the run.
        tag: value of the run's tag ``RUN_TAG``.
        steps: key of the step of every asset, in build order, by the asset's name.
        inputs: names of what every asset is made of.
        reasons: why every asset is built.
        tell: called with the outcome of every asset; before, with one that is ``RUNNING`` when its step begins and when it
            tells how far it is, and with one that is ``WAITING`` whenever its step has to be tried again.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        tag: str,
        steps: Mapping[str, str],
        inputs: Mapping[str, list[str]],
        reasons: Mapping[str, str],
        tell: Callable[[Outcome], None],
    ) -> None:
        self.instance = instance
        self.tag = tag
        self.tell = tell
        self.inputs = inputs
        self.reasons = dict(reasons)
        self.open = {step: key for key, step in steps.items()}
        self.started: dict[str, float] = {}
        self.states: dict[str, str] = {}
        self.crashes: dict[str, str] = {}
        self.unmade: set[str] = set()
        self.ending: tuple[str, str] | None = None
        self.foreign = False
        self.cursor: str | None = None
        self.run_id: str | None = None
        self.done = threading.Event()
        self.may_interrupt = threading.current_thread() is threading.main_thread()
        self.thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def finish(self) -> Ending | None:
        """Read what is left, and tell of the assets that were not made; how the run ended, if its steps do not say."""
        self.may_interrupt = False
        self.done.set()
        self.thread.join()
        self._read()
        state, reason = self.ending or (FAILED, "it ended without saying why")
        any_failed = bool(self.unmade)
        hit = []
        for step, key in self.open.items():
            missing = [name for name in self.inputs[key] if name in self.unmade]
            self.unmade.add(key)
            if missing:
                self.tell(Outcome(key, SKIPPED, message=f"without {', '.join(missing)} it cannot be made"))
                continue
            hit.append(key)
            self.tell(Outcome(key, FAILED if step in self.started else SKIPPED, message=f"the run {HOW[state]}"))
        if not hit and (self.ending is None or (state == FAILED and any_failed and not self.foreign)):
            return None
        return Ending(self.run_id or "", state, reason, tuple(hit))

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
        if event is None:
            return
        if step is None:
            self._take_of_run(event)
        elif step not in self.open:
            return
        elif event.event_type in (_EVENT.STEP_WORKER_STARTED, _EVENT.STEP_START, _EVENT.STEP_RESTARTED):
            if event.event_type == _EVENT.STEP_RESTARTED or step not in self.started:
                self.tell(Outcome(self.open[step], RUNNING, message=self.reasons.get(self.open[step], "")))
            self.started[step] = entry.timestamp
        elif event.event_type == _EVENT.ASSET_OBSERVATION:
            said = event.asset_observation_data.asset_observation.metadata.get("progress")
            if said is not None:
                seconds = entry.timestamp - self.started.get(step, entry.timestamp)
                self.tell(Outcome(self.open[step], RUNNING, seconds, str(said.value)))
        elif event.event_type == _EVENT.ENGINE_EVENT:
            if found := _CRASH.search(event.message or ""):
                self.crashes[step] = found[0]
        elif event.event_type == _EVENT.ASSET_MATERIALIZATION and entry.asset_materialization:
            metadata = entry.asset_materialization.metadata
            outcome, changes = metadata.get("outcome"), metadata.get("changes")
            self.states[step] = BUILT if outcome is None else str(outcome.value)
            if changes is not None:
                self.reasons[self.open[step]] = str(changes.value)
        elif event.event_type == _EVENT.STEP_UP_FOR_RETRY:
            pause = event.step_retry_data.seconds_to_wait or 0
            reason = reason_of(event.step_retry_data.error) or "the step failed"
            self.tell(Outcome(self.open[step], WAITING, message=f"{reason}; tried again in {pause:.0f} s"))
        elif event.event_type == _EVENT.STEP_SUCCESS:
            self._close(step, entry.timestamp, self.states.get(step, BUILT), None)
        elif event.event_type == _EVENT.STEP_FAILURE:
            self._close(step, entry.timestamp, FAILED, self._failure(step, event))

    def _take_of_run(self, event: dg.DagsterEvent) -> None:
        if event.event_type in (_EVENT.RUN_CANCELING, _EVENT.RUN_CANCELED):
            self.ending = (CANCELLED, "somebody cancelled it, in the Dagster UI or through its API")
        elif event.event_type == _EVENT.RUN_FAILURE and self.ending is None:
            self.ending = _ending(event)
        if self.ending is None or event.pid == os.getpid():
            return
        self.foreign = True
        if self.may_interrupt:
            self.may_interrupt = False
            _thread.interrupt_main(signal.SIGINT)

    def _close(self, step: str, now: float, state: str, message: str | None) -> None:
        key = self.open.pop(step)
        if state == FAILED:
            self.unmade.add(key)
        text = self.reasons.get(key, "") if message is None else message
        self.tell(Outcome(key, state, now - self.started.get(step, now), text))

    def _failure(self, step: str, event: dg.DagsterEvent) -> str:
        """Why a step failed, in the words of the error that began it."""
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return data.user_failure_data.description
        if step in self.crashes:
            killed = "; if nobody killed it, memory ran out" if "SIGKILL" in self.crashes[step] else ""
            return f"its process {self.crashes[step]}{killed}"
        return reason_of(data.error) or "the step failed"


def _ending(event: dg.DagsterEvent) -> tuple[str, str]:
    # Without data where another process has marked the run as failed.
    data = event.job_failure_data if event.event_specific_data is not None else None
    if data is not None and data.failure_reason is not None and data.failure_reason.value == "UNEXPECTED_TERMINATION":
        return STOPPED, "by a signal"
    return FAILED, reason_of(data.error if data is not None else None) or event.message or "no reason is recorded"


def reason_of(error: "SerializableErrorInfo | None") -> str:
    """The message of the error that began it, without the errors that it led to and without traces."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return ""
    if error.cls_name == "DagsterExecutionInterruptedError":
        return _short(error.message).partition(": ")[2] or "stopped by a signal, or because its run was cancelled"
    if error.cls_name == "DagsterSubprocessError":
        # The errors of the processes are in its message only, as text. Of those that were killed their steps tell.
        texts = [_first_cause(text) for text in re.split(r"^In process \d+: ", error.message, flags=re.MULTILINE)[1:]]
        return "; ".join(dict.fromkeys(text for text in texts if "ChildProcessCrash" not in text)) or "a process died"
    return _short(error.message) or error.cls_name or ""


def _first_cause(text: str) -> str:
    return _short(_TRACE.split(text.rpartition(_CAUSED_BY)[2])[0])


def _short(message: str) -> str:
    """A message without the module of its class, and without our classes, whose messages say everything."""
    text = re.sub(r"^merge_assets\.[\w.]+: ", "", message.strip())
    return re.sub(r"^[a-z_][\w.]*\.(\w+)", r"\1", text)
