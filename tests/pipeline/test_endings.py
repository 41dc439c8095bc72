"""Contract of `merge-assets build` when its run does not come to its end: why is said once, and with what became of each.

The real command on a real instance. A merge that must not end yet is held by the lock of the store's drafts, or waits for
a place in the pool ``gpu`` that another run has.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from tests.commands import Done, command_environment
from tests.synthetic import write_checkpoint

pytestmark = pytest.mark.slow

PATIENCE = 560.0  # seconds after which something hangs; on a busy machine, processes take long to start
# No library knows it, so that no step tries to load what it merged.
CONFIG = {"architectures": ["X"], "model_type": "unheard-of", "num_hidden_layers": 1, "vocab_size": 8}


def recipe(*models: str) -> str:
    return (
        f"merge_method: linear\nmodels: [{', '.join(f'{{model: {m}}}' for m in models)}]\nparameters: {{weight: 1}}\n"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "merge-assets.toml").write_text("default_suites = []\n")
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, {"model.layers.0.up_proj.weight": torch.ones(4, 4)}, CONFIG)
    (tmp_path / "recipes" / "first.yaml").write_text(recipe("./a", "./b"))
    (tmp_path / "recipes" / "second.yaml").write_text(recipe("first", "./b"))
    return tmp_path


class Build:
    """A build that goes on in a process of its own, and its run."""

    def __init__(self, root: Path, **environment: str) -> None:
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-m", "merge_assets", "build"],
            cwd=root,
            env=command_environment(root) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, done: Callable[[dg.DagsterInstance, str], Any]) -> Any:
        """The first true answer of ``done(instance, run_id)`` once there is a run."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with opened(self.root) as instance:
                runs = instance.get_runs(limit=1)
                if runs and (found := done(instance, runs[0].run_id)):
                    return found
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(self.process.communicate())

    def end(self) -> Done:
        try:
            stdout, stderr = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        return Done(self.process.returncode, stdout, stderr)


@contextmanager
def opened(root: Path) -> Iterator[dg.DagsterInstance]:
    home = root / "var" / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@contextmanager
def held_drafts(root: Path) -> Iterator[None]:
    """While it lasts, no merge can begin a draft."""
    lock = root / "var" / "store" / ".drafts" / ".lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def workers(instance: dg.DagsterInstance, run_id: str) -> dict[str, int]:
    """Process of every step that computes, by the step's name."""
    started, computing = {}, set()
    for record in instance.get_records_for_run(run_id).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.event_type == dg.DagsterEventType.STEP_WORKER_STARTED:
            started[event.step_key] = int(str(event.event_specific_data.metadata["pid"].value))
        if event is not None and event.event_type == dg.DagsterEventType.STEP_START:
            computing.add(event.step_key)
    return {step: pid for step, pid in started.items() if step in computing}


def test_a_killed_step_is_tried_again_and_a_recipe_that_goes_changes_nothing(root: Path) -> None:
    """The process of ``third`` is killed. ``second`` loses its recipe, with which the run was planned."""
    (root / "recipes" / "third.yaml").write_text(recipe("./a"))
    with held_drafts(root):
        build = Build(root)
        pids = build.wait(lambda instance, run_id: (found := workers(instance, run_id)) and len(found) == 2 and found)
        os.kill(pids["variants__third"], signal.SIGKILL)
        (root / "recipes" / "second.yaml").unlink()
    done = build.end()
    assert done.code == 0
    assert "Traceback" not in done.stdout + done.stderr
    lines = {word: line for line in done.stdout.splitlines() for word in line.split() if word.startswith("variants/")}
    assert all(" built " in lines[f"variants/{name}"] for name in ("first", "second", "third"))
    assert any(
        "waiting" in line and "variants/third" in line and "its process was terminated by signal 9 (SIGKILL)" in line
        for line in done.stdout.splitlines()
    )


@contextmanager
def taken_pool(root: Path) -> Iterator[dg.DagsterInstance]:
    """The only place in the pool ``gpu`` belongs to another run; the instance, to give it back."""
    with opened(root) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        assert storage.claim_concurrency_slot("gpu", "another run", "its step").is_claimed
        yield instance


def waits(instance: dg.DagsterInstance, run_id: str) -> bool:
    pending = instance.event_log_storage.get_concurrency_info("gpu").pending_steps
    return any(step.run_id == run_id for step in pending)


def test_a_build_in_one_process_waits_for_its_pool_and_goes_on(root: Path) -> None:
    """In a pod, too: only the setting says how steps are run."""
    with taken_pool(root) as instance:
        build = Build(root, MERGE_ASSETS_EXECUTOR="in_process", KUBERNETES_SERVICE_HOST="10.0.0.1")
        build.wait(waits)
        instance.event_log_storage.free_concurrency_slots_for_run("another run")
        done = build.end()
        assert done.code == 0, done
        assert done.stdout.count(" built ") == 2 and "2 built, 2 observed" in done.stdout
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert len(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED)) == 0
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


def test_a_build_in_one_process_is_stopped_while_it_waits_for_its_pool(root: Path) -> None:
    with taken_pool(root) as instance:
        build = Build(root, MERGE_ASSETS_EXECUTOR="in_process")
        build.wait(waits)
        build.process.send_signal(signal.SIGINT)
        done = build.end()
        assert done.code == 130
        assert done.stdout.count(" the run was stopped") == 1 and done.stdout.count("without variants/first") == 1
        assert "stopped; nothing half-written was left" in done.stderr and "Traceback" not in done.stderr
        assert instance.event_log_storage.get_concurrency_info("gpu").pending_step_count == 0


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_run_that_is_cancelled_in_the_ui_ends_the_build_and_says_so(executor: str, root: Path) -> None:
    with taken_pool(root) as instance:
        build = Build(root, MERGE_ASSETS_EXECUTOR=executor)
        build.wait(waits)
        (run,) = instance.get_runs()
        # What the UI does: its launcher has not started this run, so all that it can do is to write the wish down.
        instance.run_launcher.terminate(run.run_id)
        done = build.end()
        assert done.code == 1
        assert f"the run {run.run_id} was cancelled: somebody cancelled it" in done.stdout
        assert "not made because of it: variants/first\n" in done.stdout
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.CANCELED


def test_a_run_that_is_marked_as_failed_from_elsewhere_ends_the_build_with_its_reason(root: Path) -> None:
    with taken_pool(root) as instance:
        build = Build(root)
        build.wait(waits)
        (run,) = instance.get_runs()
        instance.report_run_failed(run, "Exceeded maximum runtime of 3 seconds.")
        done = build.end()
        assert done.code == 1
        assert f"the run {run.run_id} failed: Exceeded maximum runtime of 3 seconds." in done.stdout
