"""Contract of a snapshot: a workspace that is opened from it is the one that it was taken of, whatever became of the files."""

from __future__ import annotations

import shutil
import zlib
from base64 import b64encode
from pathlib import Path

import pytest

from merge_assets.errors import CheckpointError, EvaluationError, SettingsError
from merge_assets.pipeline.graph import build_graph
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from merge_assets.workspace.snapshot import Snapshot

GOOD = """\
# made by hand
merge_method: linear
models: [{model: checkpoints/one, parameters: {weight: 1}}, {model: org/name@main, parameters: {weight: 2}}]
evaluate: [own]
---
name: second
merge_method: linear
models: [{model: good, parameters: {weight: 1}}]
"""
SUITE = "include_path: tasks\ntasks: [{task: own, metric: acc}]\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("recipes", "suites/tasks", "checkpoints/one"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "recipes" / "several.yaml").write_text(GOOD.replace("# made by hand\n", "name: good\n"))
    (tmp_path / "recipes" / "wrong.yaml").write_text("merge_method: linear\nmodels: 3\n")
    (tmp_path / "recipes" / "unreadable.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "recipes" / "uses.yaml").write_text(
        "merge_method: linear\nmodels: [{model: wrong, parameters: {weight: 1}}]\n"
    )
    (tmp_path / "suites" / "own.yaml").write_text(SUITE)
    (tmp_path / "suites" / "wrong.yaml").write_text("tasks: 3\n")
    (tmp_path / "suites" / "tasks" / "own.yaml").write_text("task: own\ndataset_path: json\n")
    return tmp_path


def opened(root: Path, **settings: object) -> Workspace:
    return Workspace.open(Settings(root=root, default_suites=[], **settings))  # type: ignore[arg-type]


def again(root: Path, packed: str) -> Workspace:
    return Workspace.open(Settings(root=root, threads=3), planned=Snapshot.unpack(packed))


def test_what_there_is_to_build_is_the_same_after_all_files_went(root: Path) -> None:
    before = opened(root)
    graph, packed = build_graph(before), before.snapshot().pack()
    assert {node.recipe.name for node in graph.variants} == {"good", "second"} and len(graph.broken) == 4
    for folder in ("recipes", "suites", "checkpoints"):
        shutil.rmtree(root / folder)
    after = again(root, packed)
    assert build_graph(after) == graph
    assert after.suites["own"].digest == before.suites["own"].digest
    assert {suite.name: str(suite.error) for suite in after.suites.broken} == {
        suite.name: str(suite.error) for suite in before.suites.broken
    }
    for key in ("models[1].model", "models[1].parameters.weight", "evaluate"):
        source = after.recipe("good").source
        assert source.at(key) == before.recipe("good").source.at(key)


def test_a_snapshot_of_a_workspace_that_was_opened_from_one_is_that_one(root: Path) -> None:
    packed = opened(root).snapshot().pack()
    assert again(root, packed).snapshot().pack() == packed
    assert opened(root).snapshot().pack() == packed, "nothing of the time or the process is in it"


def test_it_holds_the_settings_that_say_what_there_is_to_build_and_leaves_the_others_to_the_machine(root: Path) -> None:
    packed = (
        opened(root, automate=["g*"], enabled=["good"], memory=123_000_000, hub_token="secret-token").snapshot().pack()
    )
    after = again(root, packed).settings
    assert (after.automate, after.enabled, after.default_suites) == (["g*"], ["good"], [])
    assert after.threads == 3 and after.memory == Settings(root=root).memory and after.hub_token is None


def test_no_credentials_are_in_it(root: Path) -> None:
    token = "hf_" + "a" * 34
    (root / "recipes" / "several.yaml").write_text(f"# {token} https://me:hunter2@host/x\n{GOOD}")
    told = opened(root).snapshot().model_dump_json()
    assert "made by hand" in told and token not in told and "hunter2" not in told


def test_a_folder_of_a_model_that_went_is_an_error_of_whoever_reads_it(root: Path) -> None:
    packed = opened(root).snapshot().pack()
    shutil.rmtree(root / "checkpoints" / "one")
    after = again(root, packed)
    reference = ModelReference("checkpoints/one")
    assert after.names.identify(reference).kind == "local"
    with pytest.raises(CheckpointError, match="checkpoints/one: the folder is not there any more"):
        after.names.folder(reference)


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_files_of_a_task_that_changed_since_are_noticed(root: Path, change: str) -> None:
    packed = opened(root).snapshot().pack()
    suite = again(root, packed).suites["own"]
    suite.require_unchanged("own")
    if change == "edit":
        (root / "suites" / "tasks" / "own.yaml").write_text("task: own\ndataset_path: csv\n")
    else:
        shutil.rmtree(root / "suites" / "tasks")
    with pytest.raises(EvaluationError, match=r"own\.yaml: the files of own are not what they were"):
        again(root, packed).suites["own"].require_unchanged("own")


@pytest.mark.parametrize(
    "packed", ["", "no base64!", b64encode(zlib.compress(b"{}")).decode(), b64encode(b"no zlib").decode()]
)
def test_what_another_version_wrote_is_refused(packed: str) -> None:
    with pytest.raises(SettingsError, match="another version of merge_assets; start the run anew"):
        Snapshot.unpack(packed)
