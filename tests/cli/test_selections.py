"""Commands that take several recipes take the same selections; those that take one say so where several are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api.housekeeping import collect, inventory
from merge_assets.api.lines import choose, choose_one, lines_below
from merge_assets.cli.selection import model_meant, models_meant
from merge_assets.cli.show import show_leaderboard, show_plan, show_recipes
from merge_assets.cli.status import show_status
from merge_assets.errors import RecipeError, StoreError
from merge_assets.pipeline import location
from merge_assets.settings import Settings
from tests.commands import run_command
from tests.scored import evaluated, write_inputs

MEAN = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\ntags: {family: tiny}\n"
GRID = MEAN.replace("parameters", "sweep: {seed: [1, 2]}\nparameters").replace("tags: {family: tiny}\n", "")
VALUES = {"mean": 0.5, "apart": 0.4, "grid-seed1": 0.3, "grid-seed2": 0.3, "a": 0.2, "b": 0.1}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_inputs(root)
    (root / "merge-assets.toml").write_text("default_suites = ['demo']\n")
    (root / "recipes/mean.yaml").write_text(MEAN)
    (root / "recipes/grid.yaml").write_text(GRID)
    (root / "recipes/apart.yaml").write_text("merge_method: passthrough\nmodels: [{model: b}]\n")
    (root / "recipes/wrong.yaml").write_text("merge_method: linear\n")
    for name in VALUES.keys() - {"a", "b"}:
        api.build(opened(root), opened(root).recipe(name))
    for name, value in VALUES.items():
        evaluated(opened(root), name, value)
    return root


@pytest.fixture
def root(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    location.forget()
    return built


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, default_suites=["demo"]))


def test_recipes_and_the_leaderboard_show_what_is_chosen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_recipes(["tag:family=tiny", "grid"], as_json=True) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in listed["recipes"]} == {"mean", "grid-seed1", "grid-seed2"}
    assert listed["broken"] == []
    assert show_recipes(as_json=True) == 1
    assert len(json.loads(capsys.readouterr().out)["broken"]) == 1

    show_leaderboard(["apart"], as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["rank"]) for row in rows] == [("apart", 1), ("b", 2)]
    show_leaderboard(["gr?d*"], as_json=True)
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} == {"grid-seed1", "grid-seed2", "a", "b"}


def test_status_is_of_what_is_chosen_with_what_it_needs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(["mean"], as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert {line["key"] for line in told["assets"]} >= {"variants/mean", "scores/demo/mean"}
    assert not any("grid" in line["key"] or "apart" in line["key"] for line in told["assets"])
    assert told["broken"] == []


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["grid"], {"variants/grid-seed1", "variants/grid-seed2"}),
        (["tag:family"], {"variants/mean"}),
        (["variants/m*", "scores/grid-*/demo"], {"variants/mean", "scores/grid-seed1/demo", "scores/grid-seed2/demo"}),
        (["*-seed1"], {"variants/grid-seed1"}),
        (["scores/a"], {"scores/a/demo"}),
    ],
)
def test_lines_of_the_store_are_chosen_by_patterns_and_by_recipes(
    words: list[str], lines: set[str], root: Path
) -> None:
    space = opened(root)
    assert set(lines_below(space, inventory(space), words)) == lines


def test_versions_are_chosen_alike_and_one_is_one(root: Path) -> None:
    space = opened(root)
    found = inventory(space)
    assert [one.artifact.line for one in choose(space, found, "mea*")] == ["variants/mean"]
    assert choose_one(space, found, "tag:family").artifact.line == "variants/mean"
    with pytest.raises(
        StoreError, match=r"'grid' means 2 lines \(variants/grid-seed1, variants/grid-seed2\); name one"
    ):
        choose_one(space, found, "grid")
    with pytest.raises(StoreError, match=r"no line of .* is meant"):
        choose(space, found, "nothing-*")
    assert {one.name[0] for one in collect(space, ["grid"], keep=1).inventory.everything} > {"variants/grid-seed1"}
    assert {name[0] for name in collect(space, ["grid"], keep=1).kept} == {"variants/grid-seed1", "variants/grid-seed2"}


def test_models_are_meant_by_selections_or_as_they_are_written(root: Path) -> None:
    space = opened(root)
    assert list(map(str, models_meant(space, ["grid", "a", "s3://bucket/a?b", "mean"]))) == [
        *("grid-seed1", "grid-seed2", "a", "s3://bucket/a?b", "mean")
    ]
    assert str(model_meant(space, "tag:family")) == "mean"
    with pytest.raises(RecipeError, match="'grid' means 2 recipes"):
        model_meant(space, "grid")


def test_a_plan_is_of_one_recipe(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_plan("tag:family", as_json=True, shard_size=None) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "mean"
    with pytest.raises(RecipeError, match="'\\*-seed\\?' means 2 recipes"):
        show_plan("*-seed?", as_json=True, shard_size=None)


@pytest.mark.parametrize(
    "arguments",
    [["recipes", "--select"], ["recipes"], ["build", "--dry-run", "--select"], ["store", "ls"], ["leaderboard"]],
)
def test_what_means_nothing_is_one_line(arguments: list[str], root: Path) -> None:
    done = run_command(*arguments, "tag:famly", root=root)
    assert done.code == 2
    assert done.stderr.count("error: ") == 1
    assert "no stored recipe is meant by 'tag:famly', did you mean 'tag:family'?" in " ".join(done.stderr.split())
