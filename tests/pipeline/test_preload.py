"""Steps are forked from a process that has started the nursery of model workers already: they share it, and load models by it.

The real command with its real executor, and the server of forks as that executor asks for it.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.pipeline import location
from merge_assets.pipeline.executor import PRELOAD_MODULE
from merge_assets.records import VariantDetails
from merge_assets.settings import Settings
from tests.commands import command_environment
from tests.evaluation_support import write_checkpoint, write_suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no such start method"),
]


def test_a_step_of_a_real_run_loads_a_model_and_evaluates_one(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_checkpoint(tmp_path / name, seed=seed)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(
        "merge_method: linear\nmodels: [{model: ./a}, {model: ./b}]\nparameters: {weight: 1}\n"
    )
    suite = write_suite(tmp_path / "suites", documents=2)
    lines = [line for line in suite.read_text().splitlines() if "task:" not in line or "tiny_perplexity" in line]
    suite.write_text("\n".join(lines))
    (tmp_path / "merge-assets.toml").write_text("default_suites = ['tiny']\n")
    done = subprocess.run(
        [sys.executable, "-m", "merge_assets", "build"],
        cwd=tmp_path,
        env=command_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with dg.DagsterInstance.from_config(str(tmp_path / "var" / "dagster")) as instance:
        (run,) = instance.get_runs()
        workers = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_WORKER_STARTED)
        assert workers, "steps were processes of their own"
    space = api.Workspace.open(Settings(root=tmp_path))
    variant = space.store.current("variants/mean")
    assert variant is not None
    checks = {check.name: check for check in variant.manifest.described(VariantDetails).checks}
    assert checks["loads_and_generates"].passed
    assert checks["loads_and_generates"].metadata["text"]
    assert space.store.current("scores/mean/tiny") is not None


def test_what_a_step_imports_of_ours_is_there_before_it_is_forked() -> None:
    look = (
        "import sys, merge_assets.pipeline.preload; print(*(name for name in sys.argv[1:] if name not in sys.modules))"
    )
    asked = ("merge_assets.api.score", "merge_assets.api.build", "merge_assets.evaluation.runner", "jinja2")
    done = subprocess.run([sys.executable, "-c", look, *asked], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.split() == []


STEPS = f"""
import multiprocessing, os
from multiprocessing import forkserver
from merge_assets.model_worker import Limits, ModelWorker
from merge_assets.pipeline.executor import start_ahead
from merge_assets.settings import Settings

def step(say):
    start_ahead(Settings(root=os.getcwd(), executor="multiprocess"))
    assert forkserver._forkserver._forkserver_pid is None, "steps start no server of their own"
    with ModelWorker("tests.model_worker.verbs", Limits()) as worker:
        say.put((os.getppid(), worker.ask("who", {{}}, limit=None)["imported by"]))

if __name__ == "__main__":
    start_ahead(Settings(root=os.getcwd(), executor="in_process"))
    assert forkserver._forkserver._forkserver_pid is None
    start_ahead(Settings(root=os.getcwd(), executor="multiprocess"))
    ahead = forkserver._forkserver._forkserver_pid
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([{PRELOAD_MODULE!r}])
    say = context.Queue()
    steps = [context.Process(target=step, args=(say,)) for _ in range(3)]
    for one in steps:
        one.start()
    found = [say.get(timeout=600) for _ in steps]
    for one in steps:
        one.join()
    print(len(set(found)), *found[0], ahead)
"""


def test_all_steps_of_a_run_share_one_nursery_of_the_server_that_was_started_ahead(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(textwrap.dedent(STEPS))
    done = subprocess.run(
        [sys.executable, "steps.py"],
        cwd=tmp_path,
        env=command_environment(tmp_path) | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, server, nursery, ahead = map(int, done.stdout.split())
    assert server == ahead, "it is not started again when the executor asks for it"
    assert count == 1, "one server of forks, and one nursery"
    assert server != nursery


def test_what_works_on_a_run_starts_it_ahead_and_what_plans_runs_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "merge-assets.toml").write_text("default_suites = []\n")
    monkeypatch.chdir(tmp_path)
    started: list[str] = []
    monkeypatch.setattr(location, "start_ahead", lambda settings: started.append(settings.executor))
    location.forget()
    try:
        packed = location.workspace().snapshot().pack()
        location.definitions()
        assert started == []
        location.forget()
        metadata = {location.PLANNED: packed, location.GONE: "[]"}
        monkeypatch.setattr(location, "_handed_over", lambda: metadata)
        location.definitions()
        assert started == ["multiprocess"]
    finally:
        monkeypatch.undo()
        location.forget()
