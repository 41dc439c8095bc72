"""Contract: within one verb, a recipe is planned once and a model opened once; the next verb sees what has changed since."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_assets import api
from merge_assets.checkpoint import open_checkpoint
from merge_assets.checkpoint.open import DirectorySource
from merge_assets.cli.show import show_plan
from merge_assets.errors import CheckpointError, PlanError
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import Recipe
from merge_assets.recipe.book import MAX_GENERATIONS
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import Models
from merge_assets.workspace.on_hub import HubModels
from tests.recipe_graphs import chain, crown, diamonds, fan, folded_diamonds, merge
from tests.synthetic import read_tensors, write_llama

WEIGHTS = "model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_llama(tmp_path / name, 1, seed=seed)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "merge-assets.toml").write_text("")
    return tmp_path


def workspace(root: Path, recipes: dict[str, str]) -> api.Workspace:
    for name, text in recipes.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)
    return api.Workspace.open(Settings(root=root))


def plan(space: api.Workspace, name: str = "top") -> Plan:
    return api.plan(space, space.recipe(name))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each recipe was planned."""
    plans: Counter[str] = Counter()

    def counted(recipe: Recipe, *arguments: Any, **options: Any) -> Plan:
        plans[recipe.name] += 1
        return build_plan(recipe, *arguments, **options)

    for module in ("merge_assets.workspace.models", "merge_assets.api.plan"):
        monkeypatch.setattr(sys.modules[module], "build_plan", counted)
    return plans


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the weights of each folder were opened."""
    folders: Counter[str] = Counter()
    read = DirectorySource.read

    def counted(self: DirectorySource, name: str, begin: int = 0, end: int | None = None) -> bytes:
        if (name, begin) == (WEIGHTS, 0):
            folders[self.directory.name] += 1
        return read(self, name, begin, end)

    monkeypatch.setattr(DirectorySource, "read", counted)
    return folders


# -- once ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipes",
    [
        pytest.param(diamonds(12), id="12 diamonds, one on the other"),
        pytest.param(crown(100), id="100 recipes of the same two models"),
        pytest.param(folded_diamonds(4), id="diamonds that are not stored"),
    ],
)
def test_a_plan_of_what_was_never_built_plans_every_recipe_and_opens_every_model_once(
    recipes: dict[str, str], root: Path, planned: Counter[str], opened: Counter[str]
) -> None:
    plan(workspace(root, recipes))
    assert planned == dict.fromkeys(recipes, 1)
    assert opened == {"a": 1, "b": 1}


def test_the_command_does_so_as_well(
    root: Path, planned: Counter[str], opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace(root, diamonds(12))
    monkeypatch.chdir(root)
    show_plan("top", as_json=False, shard_size=None)
    assert (planned.total(), opened.total()) == (25, 2)


def test_only_what_is_asked_for_is_planned(root: Path, planned: Counter[str]) -> None:
    plan(workspace(root, diamonds(3)), "left-001")
    assert planned == {"left-000": 1, "right-000": 1, "left-001": 1}


def test_what_is_below_something_built_is_not_planned(root: Path, planned: Counter[str]) -> None:
    space = workspace(root, chain(3))
    for name in space.book.order()[:2]:
        api.build(space, space.recipe(name))
    planned.clear()
    plan(space)
    assert planned == {"link-001": 1, "top": 1}


def test_a_merge_builds_what_it_is_made_of_once(root: Path, planned: Counter[str]) -> None:
    """From headers, then each recipe below when it is built, then from what was built."""
    recipes = diamonds(3)
    space = workspace(root, recipes)
    api.merge(space, space.recipe("top"), root / "out", device="cpu")
    assert planned == dict.fromkeys(recipes, 2)
    merged, expected = read_tensors(root / "out"), [read_tensors(root / name) for name in "ab"]
    for name, tensor in merged.items():
        mean = ((expected[0][name].double() + expected[1][name].double()) / 2).bfloat16()
        assert torch.equal(tensor, mean), name


def test_a_build_plans_what_it_folds_in_once(root: Path, planned: Counter[str], opened: Counter[str]) -> None:
    recipes = folded_diamonds(4)
    space = workspace(root, recipes)
    api.build(space, space.recipe("top"))
    assert planned == dict.fromkeys(recipes, 1)
    assert (opened["a"], opened["b"]) == (1, 1)


@pytest.mark.slow
def test_as_many_recipes_in_a_row_as_there_may_be_are_planned(root: Path, planned: Counter[str]) -> None:
    plan(workspace(root, chain(MAX_GENERATIONS - 1)))
    assert planned.total() == MAX_GENERATIONS


def test_what_is_not_stored_is_planned_while_few_enough_ways_lead_to_it(
    root: Path, planned: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tensors on the lowest level, twice as many on each above: the third is the last."""
    monkeypatch.setattr("merge_assets.plan.build.MAX_FOLDED", 8)
    space = workspace(root, folded_diamonds(40))
    assert {len(list(tensor.files())) for tensor in plan(space, "left-002").tensors} == {8}
    planned.clear()
    with pytest.raises(
        PlanError, match=r"left-003.yaml:\d: models: tensor \S+ would be made of 16 .* 8 are; store left-002"
    ):
        plan(space)
    assert planned.total() == 7


def test_a_model_that_is_named_in_two_ways_is_opened_once(root: Path, opened: Counter[str]) -> None:
    plan(workspace(root, {"inner": merge("a", "b"), "top": merge("inner", "./a", "./b")}))
    assert opened == {"a": 1, "b": 1}


def test_the_hub_is_asked_for_a_model_or_an_adapter_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()

    def headers(_: HubModels, reference: ModelReference) -> PlanInput:
        asked[f"headers of {reference}"] += 1
        return PlanInput(reference, open_checkpoint(root / "a"))

    def downloaded(_: HubModels, reference: ModelReference, *__: object) -> Path:
        asked[f"files of {reference}"] += 1
        return root / "a"

    monkeypatch.setattr(HubModels, "headers", headers)
    monkeypatch.setattr(HubModels, "downloaded", downloaded)
    space = workspace(root, {"inner": merge("a", "org/model"), "top": merge("inner", "org/model")})
    plan(space)
    found = Models(space)
    for text in ("a+org/adapter", "b+org/adapter"):
        found.headers(ModelReference.parse(text))
    for _ in range(2):
        found.fetch(ModelReference("org/model"))
    assert asked == {"headers of org/model": 1, "headers of org/adapter": 1, "files of org/model": 1}


# -- and never stale -----------------------------------------------------------------------------------------------------


def test_the_next_verb_sees_a_model_that_changed(root: Path) -> None:
    space = workspace(root, {"inner": merge("a", "b"), "top": merge("inner", "b")})
    before = {tensor.dtype for tensor in plan(space).tensors}
    (root / "a").rename(root / "gone")
    write_llama(root / "a", 1, dtype=torch.float32)
    assert (before, {tensor.dtype for tensor in plan(space).tensors}) == ({"BF16"}, {"F32"})


def test_the_next_verb_sees_what_was_built(root: Path) -> None:
    space = workspace(root, {"inner": merge("a", "b"), "top": merge("inner", "b")})
    before = plan(space)
    built = api.build(space, space.recipe("inner"))
    after = plan(space)
    assert (before.models[0].fingerprint, after.models[0].fingerprint) == (None, built.artifact.version)
    assert before.key != after.key


def test_the_next_observation_sees_other_bytes(root: Path) -> None:
    space = workspace(root, fan(1))
    before = api.observe(space, ModelReference("a"))
    write_llama(root / "other", 1, seed=7)
    (root / "other" / WEIGHTS).replace(root / "a" / WEIGHTS)
    assert api.observe(space, ModelReference("a")).fingerprint != before.fingerprint


def test_what_failed_is_tried_again(root: Path) -> None:
    space = workspace(root, fan(1))
    found = Models(space)
    (root / "a").rename(root / "away")
    with pytest.raises(CheckpointError, match="neither a recipe, nor a local directory"):
        found.headers(ModelReference("a"))
    (root / "away").rename(root / "a")
    assert found.headers(ModelReference("a")).checkpoint.layer_count == 1
