"""The facts, read from a Dagster instance.

Order matters: runs first, then what they recorded. The other way round, a run that ended in between would look as if it had
made nothing.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping

import dagster as dg
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, PARENT_RUN_ID_TAG, WILL_RETRY_TAG

from merge_assets.errors import printable
from merge_assets.pipeline.checks import failed_checks
from merge_assets.pipeline.keys import BUILD_JOB
from merge_assets.pipeline.process import PROCESS_TAG, is_gone
from merge_assets.pipeline.reasons import REASON_TAG
from merge_assets.pipeline.reconciler.facts import AUTOMATION, Facts, Fault, KnownRun, KnownStep, RunState
from merge_assets.pipeline.reconciler.memory import Memory
from merge_assets.pipeline.reconciler.roster import Roster
from merge_assets.pipeline.versions import Recorded, recorded_all
from merge_assets.pipeline.watcher import reason_of

TRIGGER_TAG = "trigger"

MOST_ENDED = 1000
"""Ended runs that are looked through at most, the newest."""
OVERLAP_SECONDS = 120.0
"""Runs that ended before the last look are looked through again: clocks differ, and a transaction takes a while."""
LOOK_BACK_SECONDS = 7 * 24 * 3600.0
"""How old a run may be that the first look learns from."""
RETRY_SECONDS = 600.0
"""Within which Dagster itself starts a run again of which it says that it will."""

_STATUS = dg.DagsterRunStatus
_STATES: dict[dg.DagsterRunStatus, RunState] = {
    _STATUS.QUEUED: "queued",
    _STATUS.NOT_STARTED: "queued",
    _STATUS.STARTING: "queued",
    _STATUS.STARTED: "running",
    _STATUS.CANCELING: "running",
    _STATUS.SUCCESS: "succeeded",
    _STATUS.FAILURE: "failed",
    _STATUS.CANCELED: "cancelled",
}
_ENDED = [_STATUS.SUCCESS, _STATUS.FAILURE, _STATUS.CANCELED]
_EVENT = dg.DagsterEventType
_STEP_EVENTS = {
    _EVENT.STEP_START,
    _EVENT.STEP_SUCCESS,
    _EVENT.STEP_FAILURE,
    _EVENT.STEP_SKIPPED,
    _EVENT.RUN_FAILURE,
}
MAY_PASS = frozenset(
    {
        *("store.unreachable", "hub.limited", "hub.failing", "hub.unreachable"),
        *("step.killed", "model.memory"),  # it may have been others' doing
        "input.changed",  # whoever writes it will be done
    }
)
"""Kinds of our errors after which the same may succeed, see docs/operation.md."""


class Reader:
    """Reads facts again and again; what cannot have changed is remembered."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self._ended: dict[str, KnownRun] = {}

    def facts(self, instance: dg.DagsterInstance, memory: Memory, now: float | None = None) -> Facts:
        """What is known now, with the runs that ended since ``memory`` was made."""
        moment = time.time() if now is None else now
        runs = self._runs(instance, memory, moment)
        known = recorded_all(instance, map(_key, (*(asset.key for asset in self.roster.assets), *self.roster.bases)))
        records = {key.to_user_string(): record for key, record in known.items() if record is not None}
        return Facts(moment, self.roster.assets, records, self._refused(instance, records), runs)

    def _runs(self, instance: dg.DagsterInstance, memory: Memory, now: float) -> tuple[KnownRun, ...]:
        active = [status for status, state in _STATES.items() if state in ("queued", "running")]
        found = {
            record.dagster_run.run_id: record for record in instance.get_run_records(dg.RunsFilter(statuses=active))
        }
        after = max(memory.until - OVERLAP_SECONDS, now - LOOK_BACK_SECONDS)
        ended = instance.get_run_records(
            dg.RunsFilter(statuses=_ENDED, updated_after=datetime.datetime.fromtimestamp(after, tz=datetime.UTC)),
            limit=MOST_ENDED,
        )
        found = {**{record.dagster_run.run_id: record for record in ended}, **found}
        self._ended = {run_id: run for run_id, run in self._ended.items() if run_id in found}
        return tuple(run for record in found.values() if (run := self._run(instance, record, now)) is not None)

    def _run(self, instance: dg.DagsterInstance, record: dg.RunRecord, now: float) -> KnownRun | None:
        run = record.dagster_run
        if run.run_id in self._ended:
            return self._ended[run.run_id]
        keys = self._keys(run)
        if not keys:
            return None
        state = _STATES[run.status]
        last_sign = record.end_time or record.update_timestamp.timestamp()
        ended = last_sign if run.is_finished else None
        steps, problem = (
            ({}, None) if state == "queued" else self._steps(instance, run.run_id, wanted=state != "succeeded")
        )
        if state == "failed" and ended is not None and _is_retried(run) and now - ended < RETRY_SECONDS:
            state, ended = "queued", None
        if not run.is_finished and is_gone(run.tags.get(PROCESS_TAG, "")):
            state, ended, problem = (
                "failed",
                last_sign,
                Fault("died", "the process of its run was killed", may_pass=True),
            )
        made = KnownRun(
            id=run.run_id,
            state=state,
            trigger=_trigger(run),
            since=record.start_time or record.create_timestamp.timestamp(),
            keys=keys,
            steps=steps,
            ended=ended,
            problem=problem,
            reason=run.tags.get(REASON_TAG, ""),
        )
        if not made.is_active:
            self._ended[run.run_id] = made
        return made

    def _keys(self, run: dg.DagsterRun) -> frozenset[str]:
        if run.asset_selection is not None:
            keys = frozenset(key.to_user_string() for key in run.asset_selection)
        else:
            keys = frozenset(self.roster.steps.values()) if run.job_name == BUILD_JOB else frozenset()
        if run.step_keys_to_execute is not None:  # a run that goes on where another one failed
            keys &= {self.roster.steps[step] for step in run.step_keys_to_execute if step in self.roster.steps}
        return keys

    def _steps(
        self, instance: dg.DagsterInstance, run_id: str, *, wanted: bool
    ) -> tuple[dict[str, KnownStep], Fault | None]:
        steps: dict[str, KnownStep] = {}
        problem: Fault | None = None
        cursor: str | None = None
        while wanted:
            page = instance.get_records_for_run(run_id, cursor, of_type=_STEP_EVENTS, limit=2000)
            for record in page.records:
                entry = record.event_log_entry
                event = entry.dagster_event
                key = self.roster.steps.get(entry.step_key or "")
                if event is None:
                    continue
                if event.event_type == _EVENT.RUN_FAILURE:
                    problem = _problem_of_run(event)
                elif key is not None:
                    steps[key] = _step(event, entry.timestamp, steps.get(key))
            if not page.has_more:
                break
            cursor = page.cursor
        return steps, problem

    def _refused(self, instance: dg.DagsterInstance, records: Mapping[str, Recorded]) -> dict[str, tuple[str, ...]]:
        asked = [check for check in self.roster.checks if check.asset_key.to_user_string() in records]
        refused: dict[str, tuple[str, ...]] = {}
        for event in failed_checks(instance, asked):
            key = event.asset_key.to_user_string()
            refused[key] = (*refused.get(key, ()), event.check_name)
        return refused


def _step(event: dg.DagsterEvent, at: float, before: KnownStep | None) -> KnownStep:
    started = before.started if before else None
    match event.event_type:
        case _EVENT.STEP_START:
            return KnownStep("running", started=at)
        case _EVENT.STEP_SUCCESS:
            return KnownStep("done", started, at)
        case _EVENT.STEP_SKIPPED:
            return KnownStep("skipped", started, at)
        case _:
            return KnownStep("failed", started, at, _problem_of_step(event))


def _problem_of_step(event: dg.DagsterEvent) -> Fault:
    data = event.step_failure_data
    failure = data.user_failure_data
    if failure is not None:
        kind, wait = failure.metadata.get("error_kind"), failure.metadata.get("retry_after")
        word = str(kind.value) if kind is not None else "failure"
        pause = wait.value if wait is not None and isinstance(wait.value, (int, float)) else None
        stopped = failure.description == "the work was stopped"
        return Fault(
            "stopped" if stopped else word,
            printable(failure.description or "the step failed"),
            stopped or word in MAY_PASS,
            pause,
        )
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    name = (error.cls_name if error is not None else None) or "died"
    died = name in ("ChildProcessCrashException", "DagsterExecutionInterruptedError")
    return Fault("died" if died else name, printable(reason_of(data.error) or "the step failed"), may_pass=True)


def _problem_of_run(event: dg.DagsterEvent) -> Fault:
    data = event.job_failure_data if event.event_specific_data is not None else None
    text = reason_of(data.error if data is not None else None) or event.message or "no reason is recorded"
    return Fault("run", printable(f"its run ended: {text}"), may_pass=True)


def _is_retried(run: dg.DagsterRun) -> bool:
    return run.tags.get(WILL_RETRY_TAG) == "true" and AUTO_RETRY_RUN_ID_TAG not in run.tags


def _trigger(run: dg.DagsterRun) -> str:
    trigger = run.tags.get(TRIGGER_TAG, "a person")
    if trigger == AUTOMATION and PARENT_RUN_ID_TAG in run.tags:
        return "a person"  # who has run it again, with its tags
    return trigger


def _key(text: str) -> dg.AssetKey:
    return dg.AssetKey.from_user_string(text)
