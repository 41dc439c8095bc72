"""Contract of verbs in several processes at once: each thing is made once, and what a killed one finished is gone on with."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.settings import Settings
from merge_assets.store.inventory import survey
from tests.evaluation_support import write_checkpoint, write_suite
from tests.s3.rgw import Rgw
from tests.store_support import finish, spawn
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

RECIPE = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]\n"
START = """
import json, time
from pathlib import Path
from merge_assets import api
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.work import Work
root, given, number = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
told = []
def report(done, total, label):
    if label.startswith("waits for"):
        told.append(label)
        (root / f"waits-{number}").touch()
work = Work(report)
space = api.Workspace.open(Settings(root=root, device="cpu", cache_dir=root / "cache", **given))
(root / f"ready-{number}").touch()
while not (root / "go").exists():
    time.sleep(0.01)
"""
BUILD = START + "done = api.build(space, space.recipe('mean'), work=work)\n"
ANALYSE = START + "done = api.analyse(space, ModelReference.parse('model'), work=work)\n"
SCORE = START + "done = api.score(space, ModelReference.parse('model'), 'tiny', work=work)\n"
SAY = "print(json.dumps([done.artifact.version, done.reused, told]))\n"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def wait(folder: Path, pattern: str, number: int, processes: list[subprocess.Popen[str]]) -> None:
    while len(list(folder.glob(pattern))) < number:
        for process in processes:
            assert process.poll() in (None, 0), process.communicate()
        time.sleep(0.02)


def all_at_once(
    root: Path, code: str, given: Mapping[str, Any], number: int, processes: list[subprocess.Popen[str]]
) -> list[tuple[str, bool, list[str]]]:
    """What so many processes say who begin at the same moment."""
    processes += [spawn(code + SAY, root, json.dumps(given), one) for one in range(number)]
    wait(root, "ready-*", number, processes)
    (root / "go").touch()
    return [json.loads(finish(process)) for process in processes]


@pytest.mark.parametrize("where", ["local", pytest.param("bucket", marks=pytest.mark.server)])
def test_three_builders_of_one_version_compute_it_once(
    where: str, tmp_path: Path, processes: list[subprocess.Popen[str]], request: pytest.FixtureRequest
) -> None:
    given: dict[str, Any] = {}
    if where == "bucket":
        server: Rgw = request.getfixturevalue("rgw")
        given = {"store": f"s3://{request.getfixturevalue('bucket')}", "store_options": server.options()}
    write_llama(tmp_path / "a", seed=1)
    write_llama(tmp_path / "b", seed=2)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(RECIPE)
    said = all_at_once(tmp_path, BUILD, given, 3, processes)
    assert len({version for version, _, _ in said}) == 1
    assert sorted(reused for _, reused, _ in said) == [False, True, True]
    waited = [told for _, reused, told in said if reused and told]
    assert waited and all(label.endswith("building variants/mean") for told in waited for label in told)
    found = survey(api.Workspace.open(Settings(root=tmp_path, **given)).store)
    assert (len(found.everything), found.unfinished, found.leases, found.leftovers) == (1, [], [], [])


def test_an_analysis_that_two_want_is_computed_once(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    write_llama(tmp_path / "model", seed=1)
    said = all_at_once(tmp_path, ANALYSE, {}, 2, processes)
    assert sorted(reused for _, reused, _ in said) == [False, True]
    assert len({version for version, _, _ in said}) == 1


def test_who_waits_for_an_evaluation_goes_on_with_the_tasks_that_a_killed_one_finished(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    write_checkpoint(tmp_path / "model")
    write_suite(tmp_path / "suites")
    code = SCORE + "print(json.dumps([done.reused, list(done.evaluated)]))\n"
    (tmp_path / "go").touch()
    first = spawn(code, tmp_path, "{}", 1)
    processes.append(first)
    wait(tmp_path, "ready-1", 1, processes)
    second = spawn(code, tmp_path, "{}", 2)
    processes.append(second)
    wait(tmp_path, "waits-2", 1, processes)
    results = tmp_path / "cache" / "evaluations"
    wait(results, "??/*/result.json", 1, processes)
    first.kill()
    finished = {json.loads(path.read_text())["key"]["task"] for path in results.glob("??/*/result.json")}
    processes.remove(first)
    first.communicate()
    reused, evaluated = json.loads(finish(second))
    tasks = {"tiny_perplexity", "tiny_choice", "tiny_generate", "tiny_group"}
    assert finished < tasks, "it was killed before its end"
    assert (reused, set(evaluated)) == (False, tasks - finished)
