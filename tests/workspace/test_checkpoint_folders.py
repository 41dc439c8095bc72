"""Contract: the last complete checkpoints of the folder of a training run are averaged; a run keeps those of its plan."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_assets import api
from merge_assets.errors import MergeAssetsError, PlanError
from merge_assets.pipeline.graph import build_graph
from merge_assets.recipe import load_recipe
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from merge_assets.workspace.snapshot import Snapshot
from tests.synthetic import write_llama

RUN = "runs/mine"
ALL = f"merge_method: linear\naverage_checkpoints: {{folder: {RUN}}}\n"
LAST = f"merge_method: linear\naverage_checkpoints:\n  folder: {RUN}\n  last: 2\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    for number in (1000, 100, 900):
        save(tmp_path, number)
    return tmp_path


def save(root: Path, number: int, **options: Any) -> Path:
    """A checkpoint of a run, as training saves it after so many steps."""
    return write_llama(root / RUN / f"checkpoint-{number}", 1, seed=number, **options)


def opened(root: Path, text: str = ALL, **settings: Any) -> Workspace:
    (root / "recipes" / "average.yaml").write_text(text)
    return Workspace.open(Settings(root=root, default_suites=[], cache_dir=root / "cache", **settings))


def averaged(workspace: Workspace) -> list[str]:
    """The checkpoints that the recipe is made of, oldest first, by their numbers."""
    return [model.path.removeprefix(f"{RUN}/checkpoint-") for model in workspace.book.recipes["average"].references()]


def warnings(workspace: Workspace) -> tuple[str, ...]:
    return api.plan(workspace, workspace.recipe("average")).warnings


def why_not(root: Path, text: str = ALL, **settings: Any) -> PlanError:
    """The error of the plan, which the recipe's broken asset has, too."""
    workspace = opened(root, text, **settings)
    with pytest.raises(PlanError) as caught:
        api.plan(workspace, workspace.recipe("average"))
    (broken,) = build_graph(workspace).broken
    assert broken.message == str(caught.value)
    return caught.value


def test_checkpoints_are_in_the_order_of_their_steps(root: Path) -> None:
    assert averaged(opened(root)) == ["100", "900", "1000"]
    assert averaged(opened(root, LAST)) == ["900", "1000"]


def test_other_folders_and_files_are_none(root: Path) -> None:
    for name in ("best", "checkpoint-final", "checkpoint-1200-tmp", "checkpoint-", "tmp-checkpoint-1300"):
        (root / RUN / name).mkdir()
    (root / RUN / "checkpoint-1400").write_text("a file")
    workspace = opened(root)
    assert averaged(workspace) == ["100", "900", "1000"] and warnings(workspace) == ()


def test_the_folder_may_be_anywhere_and_be_called_like_a_repository(root: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(root / RUN, elsewhere / "a+b@c")
    shutil.copytree(root / RUN, root / "mine")
    for folder in (f"{elsewhere}/a+b@c", "mine", "./mine/"):
        workspace = opened(root, ALL.replace(RUN, f"'{folder}'"))
        models = api.plan(workspace, workspace.recipe("average")).models
        assert [model.reference.rpartition("-")[2] for model in models] == ["100", "900", "1000"]
    workspace = opened(root, ALL.replace(RUN, "mine"))
    shutil.rmtree(root / "mine")
    for reference in workspace.book.recipes["average"].references():
        with pytest.raises(MergeAssetsError, match="neither a recipe, nor a local directory"):
            workspace.names.identify(reference)


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_written(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def half_a_config(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text()[:40])


def without_a_shard(folder: Path) -> None:
    shutil.rmtree(folder)
    write_llama(folder, 1, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()


def without_an_index(folder: Path) -> None:
    shutil.rmtree(folder)
    write_llama(folder, 1, shards=3)
    (folder / "model.safetensors.index.json").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (without_config, "config.json: missing"),
        (half_a_config, "config.json: not JSON"),
        (without_weights, "model.safetensors: missing"),
        (half_written, "model.safetensors: "),
        (without_a_shard, "lies in model-00002-of-00003.safetensors, which is missing"),
        (without_an_index, "there is no model.safetensors.index.json that lists it"),
        (empty, "config.json: missing"),
    ],
)
def test_one_that_is_not_complete_is_left_out_with_a_warning_until_it_is(root: Path, damage: Any, why: str) -> None:
    whole = save(root, 1100)
    kept = root / "kept"
    shutil.copytree(whole, kept)
    damage(whole)
    workspace = opened(root, LAST)
    assert averaged(workspace) == ["900", "1000"]
    (warning,) = warnings(workspace)
    assert warning.startswith(f"{RUN}/checkpoint-1100 is not complete and is left out: ") and why in warning
    shutil.rmtree(whole)
    kept.rename(whole)
    workspace = opened(root, LAST)
    assert averaged(workspace) == ["1000", "1100"] and warnings(workspace) == ()


def test_what_is_older_than_those_that_are_taken_is_not_looked_at(root: Path) -> None:
    empty(root / RUN / "checkpoint-100")
    workspace = opened(root, LAST)
    assert averaged(workspace) == ["900", "1000"] and warnings(workspace) == ()
    assert len(warnings(opened(root))) == 1


def test_one_that_may_not_be_looked_at_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def refused(path: Path, **options: Any) -> Any:
        if path.name == "checkpoint-1000":
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    workspace = opened(root, LAST)
    assert averaged(workspace) == ["100", "900"]
    (warning,) = warnings(workspace)
    assert "checkpoint-1000 is not complete and is left out: " in warning and "Permission denied" in warning


def test_pickled_checkpoints_are_taken_where_they_are_allowed(root: Path) -> None:
    for number in (1100, 1200):
        folder = save(root, number)
        without_weights(folder)
        torch.save({"model.norm.weight": torch.ones(16)}, folder / "pytorch_model.bin")
    assert averaged(opened(root, LAST)) == ["900", "1000"]
    assert averaged(opened(root, LAST, allow_pickle=True)) == ["1100", "1200"]


def test_a_folder_that_is_not_there(root: Path) -> None:
    error = why_not(root, ALL.replace(RUN, "runs/yours"))
    assert error.key == "average_checkpoints.folder"
    assert (
        "recipes/average.yaml:2: average_checkpoints.folder: there is no folder runs/yours; name the one in which"
        in str(error)
    )


def test_less_than_two_checkpoints(root: Path) -> None:
    for number in (100, 900):
        empty(root / RUN / f"checkpoint-{number}")
    error = why_not(root)
    assert error.key == "average_checkpoints.folder"
    assert "runs/mine holds 1 complete checkpoint, and an average takes two or more; wait for others; " in str(error)
    assert "checkpoint-100 is not complete" in str(error) and "checkpoint-900 is not complete" in str(error)


def test_more_than_there_are(root: Path) -> None:
    error = why_not(root, LAST.replace("2", "4"))
    assert error.key == "average_checkpoints.last" and ":4: " in str(error), "the line of the key"
    assert "runs/mine holds 3 complete checkpoints, and 4 are asked for; wait for the others or take fewer" in str(
        error
    )


def test_more_than_are_merged_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge_assets.workspace.checkpoint_folders.MAX_MODELS", 2)
    assert "at most 2 are merged at once; take some by last: N" in str(why_not(root))
    assert averaged(opened(root, LAST)) == ["900", "1000"]


def test_checkpoints_of_other_shapes_are_told_by_the_plan(root: Path) -> None:
    save(root, 1100, vocabulary=40)
    error = why_not_planned(root)
    assert "average_checkpoints: shapes differ for tensor model.embed_tokens.weight" in error


def why_not_planned(root: Path) -> str:
    workspace = opened(root)
    with pytest.raises(PlanError) as caught:
        api.plan(workspace, workspace.recipe("average"))
    return str(caught.value)


def test_a_recipe_that_was_read_without_a_workspace_is_planned_all_the_same(root: Path) -> None:
    workspace = opened(root)
    recipe = load_recipe(root / "recipes" / "average.yaml")
    assert len(api.plan(workspace, recipe).models) == 3
    assert workspace.listed(recipe).digest == workspace.book.recipes["average"].digest
    assert averaged(workspace) == [
        m.path.rpartition("-")[2] for m in workspace.recipe(str(recipe.source.file)).references()
    ]


def test_a_run_keeps_the_checkpoints_that_it_was_planned_with(root: Path) -> None:
    before = opened(root, LAST)
    empty(save(root, 1100))
    graph, packed = build_graph(before), before.snapshot().pack()
    save(root, 1200)
    shutil.rmtree(root / RUN / "checkpoint-900")
    now = opened(root, LAST)
    assert averaged(now) == ["1000", "1200"]
    after = Workspace.open(before.settings, planned=Snapshot.unpack(packed))
    assert averaged(after) == ["900", "1000"] and build_graph(after) == graph
    assert after.book.recipes["average"].digest == before.book.recipes["average"].digest
    assert after.snapshot().pack() == packed
    assert now.book.recipes["average"].digest != before.book.recipes["average"].digest


def test_the_checkpoints_are_bases_like_any_model(root: Path) -> None:
    graph = build_graph(opened(root, LAST))
    assert [node.key.to_user_string() for node in graph.bases] == [f"base/{RUN}/checkpoint-{n}" for n in (1000, 900)]
    (variant,) = graph.variants
    assert [model.reference.path for model in variant.parents] == [f"{RUN}/checkpoint-{n}" for n in (900, 1000)]
    assert variant.model.automated
