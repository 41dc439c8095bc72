"""A sweep in the store: every point has the bytes of a build by itself, and what points share is made and stored once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api.plan import plan
from merge_assets.checkpoint import Checkpoint
from merge_assets.errors import RecipeError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.variants import variant_spec
from merge_assets.plan import Plan
from merge_assets.settings import Settings
from merge_assets.workspace.local import LocalModels
from tests.commands import run_command
from tests.synthetic import read_tensors, write_llama

SWEEP = """\
merge_method: slerp
models: [{model: a}, {model: b}]
base_model: a
parameters: {t: [{filter: self_attn, value: 0.5}, {value: 0.4}]}
evaluate: []
sweep: {"parameters.t[0].value": [0.2, 0.5, 0.8]}
"""
NAMES = ["grid-t0.2", "grid-t0.5", "grid-t0.8"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for seed, name in enumerate("ab"):
        write_llama(root / name, 4, seed=seed)
    (root / "recipes").mkdir()
    (root / "recipes/grid.yaml").write_text(SWEEP)
    (root / "merge-assets.toml").write_text("default_suites = []\n")
    return root


@pytest.fixture(scope="module")
def built(project: Path) -> list[api.Built]:
    space = api.Workspace.open(Settings(root=project))
    return [api.build(space, space.recipe(name)) for name in NAMES]


def test_a_point_has_the_tensors_of_a_build_by_itself(project: Path, built: list[api.Built], tmp_path: Path) -> None:
    for name, made in zip(NAMES, built, strict=True):
        alone = tmp_path / f"{name}.yaml"
        alone.write_text(made.artifact.read_bytes("recipe.yaml").decode())
        space = api.Workspace.open(Settings(root=project))
        api.merge(space, api.load_recipe(alone), tmp_path / name)

        one, other = read_tensors(made.artifact.directory(tmp_path)), read_tensors(tmp_path / name)
        assert one.keys() == other.keys()
        assert all(one[tensor].equal(other[tensor]) for tensor in one)


def test_what_the_sweep_leaves_alone_is_on_the_disk_once(project: Path, built: list[api.Built], tmp_path: Path) -> None:
    folders = [made.artifact.directory(tmp_path) for made in built]
    files = [{path.stat().st_ino: path.stat().st_size for path in folder.glob("*.safetensors")} for folder in folders]

    (common,) = set(files[0]) & set(files[1]) & set(files[2])
    reports = [made.report for made in built]
    assert all(report is not None and report.tensors_copied == 0 for report in reports)
    assert [report and report.bytes_linked for report in reports] == [0, files[0][common], files[0][common]]
    assert [report and report.tensors_computed for report in reports[1:]] == [4 * 4] * 2  # attention of four layers

    planned = api.plan_sweep(api.Workspace.open(Settings(root=project)), "grid")
    assert planned.bytes_to_write == sum({inode: size for held in files for inode, size in held.items()}.values())
    assert planned.distinct == planned.tensors - 2 * (planned.tensors // 3 - 4 * 4)
    assert planned.seconds is not None and planned.seconds > 0


def test_the_plan_says_what_cannot_be_planned_and_plans_the_rest(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    (root / "recipes").mkdir(parents=True)
    text = SWEEP.replace("model: a", f"model: {project / 'a'}").replace("model: b", f"model: {project / 'b'}")
    (root / "recipes/grid.yaml").write_text(text.replace("[0.2, 0.5, 0.8]", "[0.2, wrong]"))
    planned = api.plan_sweep(api.Workspace.open(Settings(root=root)), "grid")

    assert [isinstance(found, Plan) for _, _, found in planned.points] == [True, False]
    assert "'wrong'" in str(planned.points[1][2])
    assert planned.seconds is None
    with pytest.raises(RecipeError, match="there is no sweep 'none'"):
        api.plan_sweep(api.Workspace.open(Settings(root=root)), "none")


def test_dagster_shows_which_sweep_and_which_values(project: Path) -> None:
    graph = build_graph(api.Workspace.open(Settings(root=project)))
    specs = [variant_spec(node) for node in graph.variants]

    assert [spec.tags["sweep"] for spec in specs] == ["grid"] * 3
    assert [spec.metadata["sweep_values"].value for spec in specs] == [
        {"parameters.t[0].value": value} for value in (0.2, 0.5, 0.8)
    ]
    assert {spec.group_name for spec in specs} == {"variants/grid"}


@pytest.mark.slow
def test_the_command_plans_and_builds_a_sweep_by_its_name(project: Path, built: list[api.Built]) -> None:
    shown = run_command("plan", "grid", root=project)
    assert shown.code == 0 and "points 3" in " ".join(shown.stdout.split())
    told = json.loads(run_command("plan", "grid", "--json", root=project).stdout)
    assert [point["name"] for point in told["points"]] == NAMES and told["bytes_to_write"] < told["bytes_apart"]

    done = run_command("build", "gr*d-t0.2", "--only-variants", "--dry-run", root=project)
    assert done.code == 0 and "variants/grid-t0.2" in done.stdout and "t0.5" not in done.stdout
    every = run_command("build", "grid", "--only-variants", "--dry-run", root=project)
    assert all(f"variants/{name}" in every.stdout for name in NAMES)
    wrong = run_command("merge", "grid", "out", root=project)
    assert wrong.code == 2 and "'grid' is a sweep; name one of its 3 points, such as grid-t0.2" in wrong.stderr


def test_a_point_outside_of_its_sweep_is_planned_as_any_other_recipe(project: Path) -> None:
    space = api.Workspace.open(Settings(root=project))
    alone = api.load_recipe(project / "recipes/grid.yaml", NAMES[0])
    elsewhere = api.Workspace.open(Settings(root=project, recipes=[]))

    assert len(plan(elsewhere, alone).shards) == 1
    assert len(plan(space, alone).shards) == 2


def test_points_that_are_planned_together_have_the_plans_of_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("abc"):
        write_llama(tmp_path / name, 2, seed=seed)
    (tmp_path / "recipes").mkdir()
    values = '"parameters.t[0].value": {low: 0, high: 1, count: 5}, "parameters.t[1].value": [0.1, 0.2]'
    places = f'{{{values}, "models[1].model": [b, c]}}'
    (tmp_path / "recipes/grid.yaml").write_text(f"{SWEEP[: SWEEP.index('sweep')]}sweep: {places}\n")
    opened_headers: list[str] = []
    real = LocalModels.open

    def counted(models: LocalModels, directory: Path) -> Checkpoint:
        opened_headers.append(directory.name)
        return real(models, directory)

    monkeypatch.setattr(LocalModels, "open", counted)
    space = api.Workspace.open(Settings(root=tmp_path, cache_dir=tmp_path / "cache"))
    together = {recipe.name: found for recipe, _, found in api.plan_sweep(space, "grid").points}
    assert sorted(opened_headers) == ["a", "b", "c"]
    assert len(together) == 20
    for name, found in together.items():
        assert isinstance(found, Plan)
        assert found.to_json() == plan(space, space.recipe(name)).to_json()
