"""A candidate made of a loaded model is the one that is stored: the same bytes, the same answers, document by document."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.api import trying
from merge_assets.api.candidates import Candidates
from merge_assets.api.trying import Tried, Trying
from merge_assets.errors import ModelMemoryError, ModelWorkerError
from merge_assets.evaluation import runner
from merge_assets.evaluation.runner import Evaluation
from merge_assets.plan import rewritten, why_not_rewritten
from merge_assets.recipe import Recipe
from merge_assets.search.trials import Trial
from merge_assets.settings import Settings
from tests.commands import command_environment
from tests.evaluation_support import HereWorker, write_suite
from tests.search_project import PLACE, RECIPE, write_search

DRAWING = "\ngeneration: {do_sample: true, temperature: 0.9}\n"


def write_project(root: Path) -> Path:
    """Two models, a search, and a suite of likelihoods, whole texts, examples and texts that are drawn."""
    write_search(root)
    suite = write_suite(root / "suites", documents=8)
    suite.write_text(suite.read_text() + DRAWING)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Models are evaluated in this process; where its temporary files go."""
    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.glob("tensors-*")) == []


def opened(root: Path, cache: Path) -> tuple[api.Workspace, api.OpenSearch]:
    space = api.Workspace.open(Settings(root=root, cache_dir=cache, device="cpu", default_suites=[]))
    return space, api.open_search(space, "best")


def recipe_of(found: api.OpenSearch, number: int, **values: Any) -> Recipe:
    return found.candidate(Trial(number, "running", values or {PLACE: 0.2 + number / 4}, (), "", {}, None, None))


def made_of(trying_here: Trying, found: api.OpenSearch, recipe: Recipe, number: int) -> Tried:
    return trying_here.make(recipe, trying_here.plan(recipe), found.line(number))


def stored(space: api.Workspace, found: api.OpenSearch, recipe: Recipe, cache: Path) -> tuple[str, Evaluation]:
    """The candidate built by itself and evaluated by itself: its fingerprint, and what came out."""
    candidates = Candidates(space)
    made = candidates.build(recipe, candidates.plan(recipe, found.together), "searches/alone/trial-0")
    return made.version, api.evaluate(space, made.directory(cache), "tiny", fingerprint=made.version)


def samples(evaluation: Evaluation) -> dict[str, list[Any]]:
    """Of every result and task, what was asked and answered of every document."""
    return {
        f"{result.result.key.digest} {task}": [json.loads(line) for line in file.read_text().splitlines()]
        for result in evaluation.results
        for task, file in result.sample_files().items()
    }


def told(evaluation: Evaluation) -> list[dict[str, Any]]:
    """All that results say but when they were measured, and the command, which is of a folder."""
    apart = {"created", "seconds", "command"}
    return [one.result.model_dump(mode="json", exclude=apart) for one in evaluation.results]


@pytest.mark.slow
def test_a_candidate_made_of_the_loaded_model_answers_as_the_stored_one(root: Path, here: Path, tmp_path: Path) -> None:
    space, found = opened(root, tmp_path / "one")
    apart, _ = opened(root, tmp_path / "other")
    with Trying(space, found.together) as trying_here:
        for number in range(3):
            recipe = recipe_of(found, number)
            tried = made_of(trying_here, found, recipe, number)
            ours = trying_here.evaluate(tried, "tiny", "all")
            version, theirs = stored(apart, found, recipe, tmp_path)

            assert bool(tried.stored) == (number == 0) and (tried.artifact is None) == (number > 0)
            assert tried.fingerprint == version
            assert samples(ours) == samples(theirs) and told(ours) == told(theirs)
            assert ours.scores.digest == theirs.scores.digest
        assert len(Candidates(space).store.lines("searches")) == 1  # the one that was loaded


@pytest.mark.slow
def test_what_was_answered_of_a_stored_candidate_is_known_of_the_one_in_memory_and_the_other_way_round(
    root: Path, here: Path, tmp_path: Path
) -> None:
    space, found = opened(root, tmp_path / "cache")
    _, before = stored(space, found, recipe_of(found, 1), tmp_path)
    with Trying(space, found.together) as trying_here:
        trying_here.evaluate(made_of(trying_here, found, recipe_of(found, 0), 0), "tiny", "all")
        second = made_of(trying_here, found, recipe_of(found, 1), 1)
        assert second.stored == ""
        again = trying_here.evaluate(second, "tiny", "all")
        third = made_of(trying_here, found, recipe_of(found, 2), 2)
        new = trying_here.evaluate(third, "tiny", "all")
    assert again.evaluated == () and samples(again) == samples(before)
    assert third.stored == "" and new.evaluated
    _, after = stored(space, found, recipe_of(found, 2), tmp_path)
    assert after.evaluated == () and samples(after) == samples(new)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("scratch", ModelWorkerError("was ended by SIGKILL")),
        ("rewrite", ModelMemoryError("took too much memory")),
        ("run", ModelWorkerError("was ended by SIGKILL")),
        pytest.param("scratch", ModelMemoryError("took too much memory"), marks=pytest.mark.thorough),
        pytest.param("rewrite", ModelWorkerError("was ended by SIGKILL"), marks=pytest.mark.thorough),
        pytest.param("run", ModelMemoryError("took too much memory"), marks=pytest.mark.thorough),
    ],
)
def test_where_the_loaded_model_is_lost_the_candidate_is_stored_and_it_is_said(
    verb: str, error: ModelWorkerError, root: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, found = opened(root, tmp_path / "one")
    apart, _ = opened(root, tmp_path / "other")
    usual = HereWorker.ask
    broken: list[str] = []

    def ask(self: HereWorker, asked: str, *arguments: Any, **options: Any) -> object:
        if asked in broken:
            broken.clear()
            raise error
        return usual(self, asked, *arguments, **options)

    monkeypatch.setattr(HereWorker, "ask", ask)
    with Trying(space, found.together) as trying_here:
        trying_here.evaluate(made_of(trying_here, found, recipe_of(found, 0), 0), "tiny", "all")
        broken.append(verb)
        tried = made_of(trying_here, found, recipe_of(found, 1), 1)
        ours = trying_here.evaluate(tried, "tiny", "all")
        assert broken == [] and tried.artifact is not None and str(error) in tried.stored
        last = made_of(trying_here, found, recipe_of(found, 2), 2)
        trying_here.evaluate(last, "tiny", "all")
    assert last.stored == ""  # the next one is made of the model that was loaded then
    version, theirs = stored(apart, found, recipe_of(found, 1), tmp_path)
    assert tried.fingerprint == version and samples(ours) == samples(theirs)


@pytest.mark.slow
def test_where_memory_is_short_candidates_are_stored(
    root: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, found = opened(root, tmp_path / "cache")
    with Trying(space, found.together) as trying_here:
        trying_here.evaluate(made_of(trying_here, found, recipe_of(found, 0), 0), "tiny", "all")
        monkeypatch.setattr(trying.Limits, "bytes_of_memory", lambda self: 1000)
        tried = made_of(trying_here, found, recipe_of(found, 1), 1)
        assert tried.artifact is not None and "GB of memory are needed beside the loaded model" in tried.stored
        assert trying_here.evaluate(tried, "tiny", "all").evaluated


@pytest.mark.slow
def test_a_candidate_of_another_config_is_stored_and_answers_as_by_itself(
    root: Path, here: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("a", "b", "suites", "merge-assets.toml"):
        (project / name).symlink_to(root / name)
    (project / "recipes").mkdir()
    (project / "var").mkdir()
    text = RECIPE.replace("base_model: a", "base_model: a\ndtype: float32")
    (project / "recipes/best.yaml").write_text(text.replace("space: {", "space: {dtype: [float32, bfloat16], "))
    space, found = opened(project, tmp_path / "one")
    apart, _ = opened(project, tmp_path / "other")
    made: list[Tried] = []
    with Trying(space, found.together) as trying_here:
        for number, dtype in enumerate(("float32", "bfloat16", "bfloat16")):
            recipe = recipe_of(found, number, dtype=dtype, **{PLACE: number / 4})
            made.append(made_of(trying_here, found, recipe, number))
            ours = trying_here.evaluate(made[-1], "tiny", "all")
            version, theirs = stored(apart, found, recipe, tmp_path)
            assert made[-1].fingerprint == version and samples(ours) == samples(theirs)
    assert [bool(one.stored) for one in made] == [True, True, False]
    assert made[1].stored == "its config is another than that of the loaded model"


def test_plans_tell_which_tensors_are_rewritten_and_why_none_can_be(root: Path, tmp_path: Path) -> None:
    space, found = opened(root, tmp_path / "cache")
    one, other = (Candidates(space).plan(recipe_of(found, number), found.together) for number in (0, 1))
    names = {tensor.name for tensor in one.tensors if "self_attn" in tensor.name}

    assert why_not_rewritten(one, other) == "" and rewritten(one, other) == names
    assert rewritten(one, one) == frozenset()
    changed = {
        "config": replace(other, config={**other.config, "rope_theta": 5.0}),
        "tokenizer": replace(other, carried=(replace(other.carried[0], digest="0" * 64), *other.carried[1:])),
        "names": replace(other, tensors=(replace(other.tensors[0], name="x"), *other.tensors[1:])),
        "shapes": replace(other, tensors=(replace(other.tensors[0], shape=(1,)), *other.tensors[1:])),
    }
    for word, plan in changed.items():
        assert word in why_not_rewritten(one, plan)
    fewer = replace(other, carried=other.carried[1:])
    assert "tokenizer" in why_not_rewritten(one, fewer) and "tokenizer" in why_not_rewritten(fewer, one)


@pytest.mark.slow
def test_a_killed_search_leaves_nothing_that_was_handed_over(root: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**command_environment(root), "TMPDIR": str(temporary), "MERGE_ASSETS_CACHE_DIR": str(tmp_path / "c")}
    environment["MERGE_ASSETS_SEARCHES"] = f"sqlite:///{tmp_path / 'searches.db'}"
    command = [sys.executable, "-m", "merge_assets", "search", "best", "--trials", "200"]
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    handed = "merge-assets-worker-*/tensors-*/*.safetensors"
    _wait(lambda: bool(list(temporary.glob(handed))) or process.poll() is not None)
    os.kill(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    _wait(lambda: not list(temporary.glob("merge-assets-worker-*")))
    assert list(temporary.glob("merge-assets-worker-*")) == []


def _wait(is_so: Any) -> None:
    until = time.monotonic() + 300
    while not is_so() and time.monotonic() < until:
        time.sleep(0.002)
