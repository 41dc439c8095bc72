"""Contract of long work in a step: progress as observations, messages as failures, and a stop that leaves nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from merge_assets.errors import (
    DamageError,
    HubError,
    MergeAssetsError,
    ModelMemoryError,
    ModelWorkerError,
    RecipeError,
    StoreUnreachableError,
)
from merge_assets.pipeline import retries
from merge_assets.pipeline import work as pipeline_work
from merge_assets.pipeline.outcome import BUILT, RUNNING, WAITING, Outcome
from merge_assets.pipeline.watcher import RUN_TAG, Watcher
from merge_assets.pipeline.work import run_work
from merge_assets.work import Work

KEY = dg.AssetKey("thing")
Thread = threading.Thread

ENDLESS = """
import sys, time
from pathlib import Path
import dagster as dg
from merge_assets.pipeline.work import run_work

KEY = dg.AssetKey("thing")
FOLDER = Path(sys.argv[1])

def endless(work):
    draft = FOLDER / "draft"
    draft.touch()
    try:
        while True:
            work.check()
            time.sleep(0.01)
    finally:
        draft.unlink()
        (FOLDER / "cleaned").touch()

@dg.asset(key=KEY)
def thing(context: dg.AssetExecutionContext) -> None:
    run_work(context, KEY, endless)

instance = dg.DagsterInstance.ephemeral()
try:
    dg.materialize([thing], instance=instance, raise_on_error=False)
finally:
    (run,) = instance.get_runs()
    (failure,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    error = failure.dagster_event.step_failure_data.error
    (FOLDER / "error").write_text(error.message.strip().rpartition("errors.")[2])
"""


def run(do: Any, **options: Any) -> tuple[dg.ExecuteInProcessResult, dg.DagsterInstance]:
    @dg.asset(key=KEY)
    def thing(context: dg.AssetExecutionContext) -> None:
        context.log.info(f"result {run_work(context, KEY, do, **options)}")

    instance = dg.DagsterInstance.ephemeral()
    return dg.materialize([thing], instance=instance, raise_on_error=False), instance


def hurry(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Shorten the pauses before a step is tried again."""
    for name in ("PASSING", "MEMORY"):
        monkeypatch.setattr(retries, name, replace(getattr(retries, name), seconds=seconds))


def test_the_result_is_returned_and_progress_becomes_a_curve() -> None:
    def do(work: Work) -> int:
        for done in range(1, 5):
            work.report(done * 2**28, 2**30, "model.norm.weight")
            time.sleep(0.15)
        return 42

    result, instance = run(do, every=0.1)
    assert result.success
    events = [event.event_specific_data.asset_observation for event in result.get_asset_observation_events()]
    percents = [event.metadata["percent"].value for event in events]
    assert len(percents) >= 2
    assert percents == sorted(percents)
    assert set(percents) <= {25.0, 50.0, 75.0, 100.0}
    assert events[0].metadata["now"].value == "model.norm.weight"
    assert events[0].metadata["gib_per_s"].value > 0
    assert events[0].metadata["progress"].value.startswith("25 %, 256.0 MiB of 1.0 GiB, ")
    said = [entry.user_message or "" for entry in instance.all_logs(result.run_id)]
    assert any(text.endswith(" left: model.norm.weight") for text in said)
    assert any("result 42" in (entry.user_message or "") for entry in instance.all_logs(result.run_id))


def test_items_have_no_rate() -> None:
    def do(work: Work) -> None:
        work.report(1, 2, "")
        time.sleep(0.4)

    result, _ = run(do, every=0.1, unit="tasks")
    events = result.get_asset_observation_events()
    assert events
    assert "gib_per_s" not in events[0].event_specific_data.asset_observation.metadata


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (RecipeError("scale is missing", file="a.yaml"), 0),
        (DamageError("store/x: is damaged"), 0),
        (HubError("acme/base", "no such model", "missing"), 0),
        (HubError("acme/base", "the token is not accepted", "refused"), 0),
        (HubError("acme/base", "accept the terms", "gated"), 0),
        (HubError("acme/base", "offline mode is on", "offline"), 0),
        (HubError("acme/base", "answers 429", "limited", 0.02), 2),
        (HubError("acme/base", "answers 503", "failing"), 2),
        (HubError("acme/base", "cannot be reached", "unreachable"), 2),
        (StoreUnreachableError("s3://x: cannot be read"), 2),
        (ModelMemoryError("took more than 3 GB of memory"), 1),
        (ModelWorkerError("was ended by SIGSEGV"), 0),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_only_an_error_that_may_pass_is_tried_again(
    error: MergeAssetsError, retried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, 0.01)
    calls = []

    def do(work: Work) -> None:
        calls.append(1)
        raise error

    # Whatever somebody else would retry: errors that may pass are tried again by the step itself, others by nobody.
    @dg.asset(key=KEY, retry_policy=dg.RetryPolicy(max_retries=5))
    def thing(context: dg.AssetExecutionContext) -> None:
        run_work(context, KEY, do)

    result = dg.materialize([thing], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    assert not result.success
    assert len(calls) == 1 + retried
    failure = next(event for event in result.all_events if event.is_step_failure)
    shown = failure.step_failure_data.user_failure_data
    assert shown.description == str(error)
    assert shown.metadata["error_kind"].value == error.kind
    assert ("retry_after" in shown.metadata) == (error.wait is not None)


def failing_once() -> Any:
    """Work that fails when it is done first, and then succeeds."""
    errors = [HubError("acme/base", "answers 503", "failing")]

    def do(work: Work) -> str:
        if errors:
            raise errors.pop()
        return "made"

    return do


def test_a_step_that_is_tried_again_can_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 0.01)
    result, instance = run(failing_once())
    assert result.success
    told = [entry.user_message or "" for entry in instance.all_logs(result.run_id)]
    assert any("acme/base: answers 503; this step is tried again in 0 s" in text for text in told)


def test_who_follows_the_run_is_told_why_a_step_waits_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, 0.6)
    do = failing_once()

    @dg.asset(key=KEY)
    def thing(context: dg.AssetExecutionContext) -> None:
        run_work(context, KEY, do)

    told: list[Outcome] = []
    instance = dg.DagsterInstance.ephemeral()
    watcher = Watcher(instance, "one", {"thing": "thing"}, {"thing": []}, {"thing": "new"}, told.append)
    watcher.start()
    dg.materialize([thing], instance=instance, tags={RUN_TAG: "one"})
    assert watcher.finish() is None
    assert [(outcome.state, outcome.message) for outcome in told] == [
        (RUNNING, "new"),
        (WAITING, "acme/base: answers 503; tried again in 1 s"),
        (RUNNING, "new"),
        (BUILT, "new"),
    ]


def test_pauses_grow_and_have_a_bound() -> None:
    assert [retries.PASSING.pause(failed) for failed in (1, 2, 3)] == [30, 60, 120]
    assert (retries.PASSING.pause(2, asked=10), retries.PASSING.pause(1, asked=99)) == (60, 99)
    assert retries.PASSING.pause(1, asked=9999) == retries.PASSING.pause(50) == retries.LONGEST_SECONDS


def test_a_server_is_left_alone_for_as_long_as_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    error = HubError("acme/base", "answers 429", "limited", 0.5)
    hurry(monkeypatch, 0.01)
    calls: list[float] = []

    def do(work: Work) -> None:
        calls.append(time.monotonic())
        raise error

    run(do)
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(calls)) and len(calls) == 1 + 2


def test_a_missing_package_fails_with_the_command_that_installs_it() -> None:
    def do(work: Work) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    result, _ = run(do)
    failure = next(event for event in result.all_events if event.is_step_failure)
    shown = failure.step_failure_data.user_failure_data
    assert shown.description == "this needs torch, which is not installed: pip install 'merge-assets[engine]'"
    assert shown.metadata["error_kind"].value == "not-installed"


def test_an_unknown_error_keeps_its_traceback() -> None:
    def do(work: Work) -> None:
        raise ZeroDivisionError("a defect of ours")

    result, _ = run(do)
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert failure.step_failure_data.user_failure_data is None
    assert "ZeroDivisionError" in str(failure.step_failure_data.error)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_run_stops_the_work_and_waits_until_it_has_cleaned_up(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "draft").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal_number)
        process.communicate(timeout=300)
    finally:
        process.kill()
    assert not (tmp_path / "draft").exists()
    assert (tmp_path / "cleaned").exists()
    assert (tmp_path / "error").read_text() == (
        "DagsterExecutionInterruptedError: stopped by a signal to its process, such as Ctrl-C; what was finished is kept, "
        "and the next run goes on with it"
    )


class Interrupted(BaseException):
    """What Dagster raises in the main thread."""


@pytest.mark.parametrize("begins", [True, False])
def test_a_cancellation_while_the_work_starts_leaves_nothing_behind(
    begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between two bytecodes: also in the call that starts the thread, before or after the work has begun."""
    events: list[str] = []
    threads: list[threading.Thread] = []
    begun = threading.Event()

    class Starting(Thread):
        def start(self) -> None:
            threads.append(self)
            if begins:
                super().start()
                begun.wait()
            raise Interrupted

    def do(work: Work) -> None:
        events.append("draft")
        begun.set()
        try:
            while not work.should_stop():
                pass
        finally:
            events.append("cleaned")

    monkeypatch.setattr(pipeline_work.threading, "Thread", Starting)
    with pytest.raises(Interrupted):
        pipeline_work.run_work(cast("dg.AssetExecutionContext", None), KEY, do)
    if begins:
        assert events == ["draft", "cleaned"]
    else:
        Thread.start(threads[0])  # late
        threads[0].join()
        assert events == []
