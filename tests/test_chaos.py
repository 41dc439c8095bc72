"""The instruments of ``make chaos``: what they are to find is found where it is, and nothing is where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from merge_assets.recipe import load_recipe
from tests.checkpoint_support import save_llama
from tests.faults.chaos.__main__ import WITNESS
from tests.faults.chaos.audit import once
from tests.faults.chaos.causes import KILLED, OUTAGE, SUBSET, UNEXPLAINED, _cause
from tests.faults.chaos.processes import MARK, Census, Services
from tests.faults.chaos.project import REPOSITORY, Recipe

MERGE = """\
import sys
from merge_assets import api
workspace = api.Workspace.open()
api.build(workspace, workspace.recipe("mean"), force="again" in sys.argv)
"""
MEAN = "merge_method: linear\nmodels: [{model: one, parameters: {weight: 1}}]\nevaluate: []\n"


@pytest.mark.slow
def test_the_witness_tells_of_every_merge_that_computes_and_of_none_that_is_reused(tmp_path: Path) -> None:
    save_llama(tmp_path / "one", layers=1)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(MEAN)
    (tmp_path / "suites").mkdir()
    (tmp_path / "merge-assets.toml").write_text('default_suites = []\ndevice = "cpu"\n')
    witness = tmp_path / "witness.jsonl"
    environment = {**os.environ, "CHAOS_WITNESS": str(witness), "PYTHONPATH": f"{WITNESS}:{REPOSITORY}"}

    def merge(*arguments: str) -> None:
        subprocess.run([sys.executable, "-c", MERGE, *arguments], cwd=tmp_path, env=environment, check=True)

    merge()
    merge()
    events = [json.loads(line) for line in witness.read_text().splitlines()]
    assert [(event["event"], event["what"]) for event in events] == [("begin", "merge"), ("end", "merge")]
    assert len(events[1]["made"]) > 5
    assert [row.answer for row in once(witness, {}, 0)] == ["yes", "yes"]
    merge("again")
    assert [row.answer for row in once(witness, {}, 0)] == ["no", "yes"]


ANALYSE = """\
import os, sys
from merge_assets import api
from merge_assets.reference import ModelReference
from merge_assets.store.draft import Draft
if "killed" in sys.argv:
    Draft.commit = lambda *_, **__: os._exit(9)
api.analyse(api.Workspace.open(), ModelReference.parse("./one"))
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_an_analysis_is_done_when_it_is_committed(tmp_path: Path) -> None:
    save_llama(tmp_path / "one", layers=1)
    (tmp_path / "merge-assets.toml").write_text('default_suites = []\ndevice = "cpu"\n')
    witness = tmp_path / "witness.jsonl"
    environment = {**os.environ, "CHAOS_WITNESS": str(witness), "PYTHONPATH": f"{WITNESS}:{REPOSITORY}"}

    def analyse(*arguments: str) -> list[str]:
        subprocess.run([sys.executable, "-c", ANALYSE, *arguments], cwd=tmp_path, env=environment, check=False)
        return [json.loads(line)["event"] for line in witness.read_text().splitlines()]

    assert analyse("killed") == ["begin"]
    assert analyse() == ["begin", "begin", "end"]
    assert analyse() == ["begin", "begin", "end"], "it is reused"


def event(at: float, pid: int, kind: str, key: str = "k", made: tuple[str, ...] = ()) -> str:
    return json.dumps({"at": at, "pid": pid, "event": kind, "what": "merge", "key": key, "made": made})


@pytest.mark.parametrize(
    "events, seen, answers",
    [
        pytest.param([event(0, 1, "begin"), event(9, 1, "end", made=("a",))], {}, ["yes", "yes"], id="one"),
        pytest.param(
            [event(0, 1, "begin"), event(5, 2, "begin"), event(9, 1, "end", made=("a",)), event(9, 2, "end")],
            {},
            ["yes", "no"],
            id="side by side",
        ),
        pytest.param(
            [event(0, 1, "begin"), event(5, 2, "begin", "other"), event(9, 1, "end"), event(9, 2, "end", "other")],
            {},
            ["yes", "yes"],
            id="of two keys",
        ),
        pytest.param(
            [event(0, 1, "begin"), event(5, 2, "begin"), event(9, 2, "end", made=("a",))],
            {1: [(0.0, 4.0)]},
            ["yes", "yes"],
            id="after one that died",
        ),
        pytest.param(
            [event(0, 1, "begin"), event(5, 2, "begin"), event(9, 2, "end", made=("a",))],
            {1: [(0.0, 8.0)]},
            ["yes", "no"],
            id="beside one that should have died",
        ),
        pytest.param(
            [event(0, 1, "begin"), event(50, 2, "begin"), event(90, 2, "end", made=("a",))],
            {1: [(0.0, 4.0), (30.0, 80.0)]},
            ["yes", "yes"],
            id="after one that died, whose number another process was given",
        ),
        pytest.param(
            [event(0, 1, "end", made=("a",)), event(5, 2, "end", made=("b",)), event(9, 3, "end", made=("a",))],
            {},
            ["no", "yes"],
            id="one piece twice",
        ),
    ],
)
def test_work_that_was_done_twice_or_side_by_side_is_found(
    events: list[str], seen: Mapping[int, Sequence[tuple[float, float]]], answers: list[str], tmp_path: Path
) -> None:
    (tmp_path / "witness").write_text("\n".join(events))
    assert [row.answer for row in once(tmp_path / "witness", seen, 0)] == answers


@pytest.mark.parametrize("number", range(20))
def test_recipes_are_valid_in_every_generation_and_differ_from_the_one_before(number: int, tmp_path: Path) -> None:
    texts = [Recipe(number, generation).text() for generation in range(4)]
    assert all(one != other for one, other in pairwise(texts))
    for text in texts:
        (tmp_path / "r.yaml").write_text(text)
        load_recipe(tmp_path / "r.yaml")


def test_processes_are_found_by_their_environment_and_known_by_what_they_are(tmp_path: Path) -> None:
    environment: dict[str, Any] = {**os.environ, MARK: tmp_path.name}
    sleep = [sys.executable, "-c", "import time; time.sleep(60)", "dagster._daemon"]
    census = Census(tmp_path.name)
    with subprocess.Popen(sleep, env=environment) as ours, subprocess.Popen(sleep) as strange:
        try:
            found = {process.pid: process.role for process in census.look()}
            assert found == {ours.pid: "daemon"}
        finally:
            ours.kill()
            strange.kill()
    assert census.look() == [] and ours.pid in census.last_seen


def test_a_service_that_ends_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    services = Services(tmp_path, dict(os.environ), False, lambda what, text: said.append(what))
    (service,) = services.services
    service.command = [sys.executable, "-c", "pass"]
    services.supervise()
    assert service.process is not None
    service.process.wait()
    services.supervise()
    service.due = 0.0
    services.supervise()
    assert said == ["started", "ended", "started"] and services.stop(60) == []


@pytest.mark.parametrize(
    "text, kills, outages, cause",
    [
        ("s: ChildProcessCrashException: exited with signal 9", [(5.0, "KILL step")], [], KILLED),
        ("s: ChildProcessCrashException: exited with signal 9", [], [], UNEXPLAINED),
        ("Run timed out due to taking longer than 300 seconds to start.", [(5.0, "KILL build")], [], KILLED),
        ("Run timed out due to taking longer than 300 seconds to start.", [], [], UNEXPLAINED),
        ("s: StoreError: s3://bucket/store cannot be reached", [], [(5.0, 9.0)], OUTAGE),
        ("s: StoreError: s3://bucket/store cannot be reached", [], [], UNEXPLAINED),
        ("DagsterInvalidSubsetError: no assets", [(5.0, "KILL step")], [], SUBSET),
        ("s: ZeroDivisionError: division by zero", [(5.0, "KILL step")], [(5.0, 9.0)], UNEXPLAINED),
    ],
)
def test_a_failure_is_explained_by_what_was_done_at_its_time_alone(
    text: str, kills: list[tuple[float, str]], outages: list[tuple[float, float]], cause: str
) -> None:
    assert _cause(text, 0.0, 10.0, kills, outages) == cause
