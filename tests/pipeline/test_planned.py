"""Contract of a run with its recipes: it works with those that it was planned with, whatever becomes of the files.

`merge-assets ui` with its real daemon, code server, runs and steps. Builds are the real ones on tiny checkpoints; each waits
while a file ``hold-NAME`` lies in the project, so that a test can change things meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from tests.checkpoint_support import save_llama
from tests.families import kill

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 560.0  # seconds after which something hangs; on a busy machine, processes take long to start
SECRET = secrets.token_hex()

DEFINITIONS = """\
import os, time
from pathlib import Path

from merge_assets import api
from merge_assets.errors import EvaluationError

ROOT, build = Path(__file__).parent, api.build


def held(workspace, recipe, **options):
    (ROOT / f"began-{recipe.name}").write_text(str(os.getppid()))
    while (ROOT / f"hold-{recipe.name}").exists():
        time.sleep(0.05)
    return build(workspace, recipe, **options)


def score(workspace, reference, suite, **options):
    raise EvaluationError(f"{reference} on {suite} with {len(workspace.suites[suite].tasks)} tasks is left out here")


api.build, api.score = held, score

from merge_assets.pipeline.location import definitions

defs = definitions()
"""
RECIPE = """\
merge_method: linear
models: [{{model: checkpoints/one, parameters: {{weight: {weight}}}}}, {{model: checkpoints/two, parameters: {{weight: 1}}}}]
dtype: float32
"""
LAUNCH = """\
mutation {{ launchRun(executionParams: {{
  selector: {{repositoryLocationName: "definitions", repositoryName: "__repository__", jobName: "__ASSET_JOB",
              assetSelection: [{keys}]}}
}}) {{ __typename ... on LaunchRunSuccess {{ run {{ runId }} }} ... on PythonError {{ message }} }} }}
"""
AGAIN = """\
mutation {{ launchRunReexecution(reexecutionParams: {{parentRunId: "{run}", strategy: {strategy}}}) {{
  __typename ... on LaunchRunSuccess {{ run {{ runId }} }} ... on PythonError {{ message }} }} }}
"""
STALE = "{ assetNodes { assetKey { path } staleStatus } }"


class Site:
    """A project with its `merge-assets ui`, and what a person does with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        for folder in ("recipes", "suites", "home"):
            (root / folder).mkdir()
        save_llama(root / "checkpoints" / "one", layers=2)
        save_llama(root / "checkpoints" / "two", layers=2)
        (root / "merge-assets.toml").write_text("default_suites = []\nautomate = []\n")
        (root / "definitions.py").write_text(DEFINITIONS)
        config = (REPOSITORY / "dagster.yaml").read_text()
        (self.home / "dagster.yaml").write_text(re.sub(r"max_concurrent_runs: \d+", "max_concurrent_runs: 1", config))
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGE_ASSETS_", "DAGSTER_"))}
        with (root / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "merge_assets", "ui", "--port", "0"],
                cwd=root,
                env=kept
                | {"PYTHONPATH": str(REPOSITORY), "MERGE_ASSETS_UI_TOKEN": SECRET, "DAGSTER_HOME": str(self.home)},
                stdout=log,
                stderr=log,
            )

    def address(self) -> str | None:
        assert self.process.poll() is None, self.log()
        found = re.search(r"^http://127\.0\.0\.1:\d+", self.log(), re.MULTILINE)
        return found[0] if found else None

    def log(self) -> str:
        return (self.root / "log").read_text()

    def stop(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(PATIENCE)
        for child in family:
            kill(child)
        self.instance.dispose()

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"{what}\n{self.log()[-4000:]}"
            time.sleep(0.1)

    def ask(self, query: str) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"}
        request = urllib.request.Request(f"{self.address()}/graphql", json.dumps({"query": query}).encode(), headers)
        answer = json.load(urllib.request.urlopen(request, timeout=PATIENCE))
        assert "errors" not in answer, answer
        return answer["data"]

    def write(self, name: str, weight: float = 1, more: str = "") -> None:
        (self.root / "recipes" / f"{name}.yaml").write_text(RECIPE.format(weight=weight) + more)

    def remove(self, name: str) -> None:
        (self.root / "recipes" / f"{name}.yaml").unlink()

    def await_read(self, *there: str, gone: tuple[str, ...] = ()) -> None:
        """Wait until the UI shows that the files were read again: what is there now, and what went."""

        def is_read() -> bool:
            nodes = self.ask("{ assetNodes { assetKey { path } groupName } }")["assetNodes"]
            groups = {node["assetKey"]["path"][-1]: node["groupName"] for node in nodes}
            present = all(groups.get(name, "gone") != "gone" for name in there)
            return present and all(groups.get(name) == "gone" for name in gone)

        self.wait(f"{there} and not {gone} are read", is_read)

    def hold(self, name: str) -> None:
        (self.root / f"began-{name}").unlink(missing_ok=True)
        (self.root / f"hold-{name}").touch()

    def release(self, name: str) -> None:
        (self.root / f"hold-{name}").unlink()

    def await_step(self, name: str) -> None:
        self.wait(f"the build of {name} begins", (self.root / f"began-{name}").exists)

    def launch(self, *keys: str) -> str:
        listed = ", ".join(f"{{path: {json.dumps(key.split('/'))}}}" for key in keys)
        answer = self.ask(LAUNCH.format(keys=listed))["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def again(self, run: str, strategy: str) -> str:
        answer = self.ask(AGAIN.format(run=run, strategy=strategy))["launchRunReexecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def status(self, run: str) -> dg.DagsterRunStatus:
        found = self.instance.get_run_by_id(run)
        assert found is not None
        return found.status

    def await_end(self, run: str) -> None:
        self.wait(f"run {run} ends", lambda: self.status(run) in FINISHED)

    def built(self, run: str) -> dict[str, str]:
        """What each variant was made by in a run, as it is recorded: a digest of the recipe, the method and the numerics."""
        events = self.instance.all_logs(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        made = [entry.asset_materialization for entry in events]
        return {one.asset_key.path[-1]: (one.tags or {})["dagster/code_version"] for one in made if one is not None}

    def failures(self, run: str) -> dict[str, str]:
        """What was said of each step of a run that failed."""
        events = self.instance.all_logs(run, of_type=dg.DagsterEventType.STEP_FAILURE)
        failed = [entry.dagster_event for entry in events]
        return {str(one.step_key): str(one.step_failure_data.error) for one in failed if one is not None}

    def stale(self) -> dict[str, str]:
        return {"/".join(n["assetKey"]["path"]): n["staleStatus"] for n in self.ask(STALE)["assetNodes"]}


FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("project"))
    try:
        made.wait("the UI answers", lambda: made.address() is not None)
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_a_run_and_one_that_waits_keep_recipes_and_suites_that_are_deleted_broken_and_edited_meanwhile(
    site: Site,
) -> None:
    (site.root / "suites" / "quick.yaml").write_text("tasks: [{task: arc_easy, metric: acc}]\n")
    for name in ("stays", "goes", "breaks", "queued"):
        site.write(name)
    site.write("edited", more="evaluate: [quick]\n")
    site.hold("stays")
    site.await_read("stays", "goes", "breaks", "queued", "edited")
    keys = [f"variants/{name}" for name in ("stays", "goes", "breaks", "edited")]
    first = site.launch(*keys, "scores/quick/edited")
    second = site.launch("variants/queued", "variants/goes")
    site.await_step("stays")

    site.remove("goes")
    site.remove("queued")
    site.write("edited", weight=3)
    (site.root / "recipes" / "breaks.yaml").write_text("merge_method: lin")
    (site.root / "suites" / "quick.yaml").unlink()
    site.await_read("stays", gone=("goes", "queued"))
    assert site.status(second) == dg.DagsterRunStatus.QUEUED
    site.release("stays")

    site.await_end(first)
    assert site.built(first).keys() == {"stays", "goes", "breaks", "edited"}
    (said,) = site.failures(first).values()
    assert "edited on quick with 1 tasks is left out here" in said
    site.await_end(second)
    assert site.status(second) == dg.DagsterRunStatus.SUCCESS
    assert site.built(second).keys() == {"queued", "goes"}
    assert len({*site.built(first).values()}) == 1, "four recipes that differ in their names alone"
    assert site.stale()["variants/edited"] == "STALE" and site.stale()["variants/stays"] == "FRESH"


def worker_of(site: Site, run: str) -> psutil.Process:
    """The process that works on a run."""
    events = site.instance.all_logs(run, of_type=dg.DagsterEventType.ENGINE_EVENT)
    pids = [
        entry.dagster_event.engine_event_data.metadata["pid"].value
        for entry in events
        if entry.dagster_event is not None and "pid" in entry.dagster_event.engine_event_data.metadata
    ]
    return psutil.Process(int(pids[-1]))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(1800)  # four runs and two reloads, one after the other
def test_retries_of_a_run_use_its_recipes_by_themselves_and_from_failure_but_all_anew_those_of_now(site: Site) -> None:
    for name in ("kept", "altered", "lost"):
        site.write(name)
    site.hold("altered")
    site.hold("lost")
    site.await_read("kept", "altered", "lost")
    run = site.launch("variants/kept", "variants/altered", "variants/lost")
    site.await_step("altered")
    site.await_step("lost")
    site.wait("the first is built", lambda: "kept" in site.built(run))

    site.write("altered", weight=7)
    site.remove("lost")
    site.await_read("kept", gone=("lost",))
    worker = worker_of(site, run)
    steps = worker.children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    for step in steps:  # which end by themselves when nobody waits for them
        kill(step)
    site.wait("a retry", lambda: len(site.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run}))) == 1)
    (retry,) = site.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run}))
    site.release("altered")
    site.release("lost")
    site.await_end(retry.run_id)
    assert site.status(retry.run_id) == dg.DagsterRunStatus.SUCCESS, site.failures(retry.run_id)
    assert site.built(retry.run_id).keys() == {"altered", "lost"}
    assert {*site.built(retry.run_id).values()} == {*site.built(run).values()}, "of the same text"
    assert site.stale()["variants/altered"] == "STALE"

    anew = site.again(run, "ALL_STEPS")
    site.await_end(anew)
    assert site.built(anew)["altered"] != site.built(retry.run_id)["altered"]
    (said,) = site.failures(anew).values()
    assert "variants/lost: no recipe makes this any more" in said
    from_failure = site.again(run, "FROM_FAILURE")
    site.await_end(from_failure)
    assert site.built(from_failure) == site.built(retry.run_id)
