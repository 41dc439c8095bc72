"""What a recipe may say of a search: a space that fits it, objectives, points to start from; each mistake is one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_assets.api.search_plan import corners_of
from merge_assets.errors import RecipeError
from merge_assets.recipe import RecipeBook, candidate, load_recipe
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from tests.recipe.test_sweep import LINEAR
from tests.recipe_support import write

WEIGHT = "models[1].parameters.weight"
SEARCH: dict[str, Any] = {"space": {WEIGHT: {"low": 0, "high": 1}}, "objective": {"suite": "demo"}}


def nowhere(folder: Path) -> Workspace:
    return Workspace.open(Settings(root=folder, recipes=[]))


def text(**changes: Any) -> str:
    return yaml.safe_dump({**LINEAR, "search": {**SEARCH, **changes}}, sort_keys=False)


def test_a_candidate_is_the_recipe_with_values_in_their_places(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, text()))
    made = candidate(recipe, 7, {WEIGHT: 0.25})
    hand = yaml.safe_load(yaml.safe_dump(LINEAR))
    hand["models"][1]["parameters"]["weight"] = 0.25

    assert made.digest == load_recipe(write(tmp_path, yaml.safe_dump(hand), "hand.yaml")).digest
    assert (made.name, made.search, made.swept and made.swept.values) == ("mix-trial-7", None, {WEIGHT: 0.25})


def test_a_search_is_no_variant_and_what_is_made_of_it_is_broken(tmp_path: Path) -> None:
    write(tmp_path, text(), "a.yaml")
    write(tmp_path, "{name: next, merge_method: passthrough, models: [{model: mix}]}", "b.yaml")
    book = RecipeBook.load([tmp_path])

    assert list(book.searches) == ["mix"] and not book.recipes
    assert "'mix' is a search; promote what it found, and name that recipe" in str(book.broken[0].error)


def test_the_corners_change_one_place_each_and_leave_out_what_a_condition_excludes(tmp_path: Path) -> None:
    space = {
        "merge_method": ["linear", "ties"],
        WEIGHT: {"low": 0.1, "high": 1},
        "parameters.density": {"low": 0.2, "high": 0.8, "when": {"merge_method": ["ties"]}},
    }
    content = {**LINEAR, "parameters": {}}
    recipe = load_recipe(
        write(tmp_path, yaml.safe_dump({**content, "search": {**SEARCH, "space": space}}, sort_keys=False))
    )
    assert recipe.search is not None
    corners = corners_of(nowhere(tmp_path), recipe, recipe.search)
    assert [point.swept.values for point in corners if point.swept] == [
        {"merge_method": "linear", WEIGHT: 0.1},
        {"merge_method": "ties", WEIGHT: 0.1, "parameters.density": 0.2},
        {"merge_method": "linear", WEIGHT: 1},
        {"merge_method": "linear", WEIGHT: 0.1},
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {}}, "search.space: is empty"),
        ({"space": {WEIGHT: []}}, "is empty"),
        ({"space": {WEIGHT: 0.5}}, "0.5 is neither a list of values nor {low, high}"),
        ({"space": {WEIGHT: {"low": 1, "high": 0}}}, "nothing lies between 1 and 0"),
        ({"space": {WEIGHT: {"low": 0, "high": 1, "log": True}}}, "has no place for 0"),
        ({"objective": []}, "search.objective: is empty"),
        ({"objective": {}}, "exactly one of suite and size"),
        ({"objective": {"suite": "demo", "size": "parameters"}}, "exactly one of suite and size"),
        ({"objective": {"suite": "demo", "metric": "acc"}}, "names a metric and no task"),
        ({"objective": {"size": "parameters", "task": "x"}}, "the size is of no task"),
        (
            {"objective": [{"suite": "demo", "weight": 1}, {"size": "parameters"}]},
            "all objectives have a weight or none",
        ),
        ({"sampler": "cmaes", "objective": [{"suite": "demo"}, {"size": "parameters"}]}, "cmaes has one objective"),
        ({"sampler": "genetic"}, "is not one of"),
        ({"trials": 0}, "search.trials"),
        ({"start": [{"parameters.t": 1}]}, f"the space has no parameters.t, only {WEIGHT}"),
        ({"start": [{WEIGHT: 2}]}, "2 is outside of the space"),
        (
            {"space": {WEIGHT: {"low": 0, "high": 1, "when": {"dtype": ["float32"]}}}},
            "dtype is no other place of the space",
        ),
        (
            {"space": {"dtype": ["float16"], WEIGHT: {"low": 0, "high": 1, "when": {"dtype": ["float32"]}}}},
            "'float32' is never tried in dtype",
        ),
    ],
)
def test_a_malformed_search_is_one_error_that_names_what_is_wrong(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text(**changes)))
    assert said in str(caught.value) and "recipe.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"models[2].parameters.weight": [1, 2]}, "search.space: models[2].parameters.weight is no place"),
        ({"paramters.weight": [1, 2]}, "paramters: unknown key, did you mean 'parameters'?; at the point"),
        ({"dtype": ["float32", "float8"]}, "unknown dtype 'float8'"),
    ],
)
def test_a_space_that_does_not_fit_the_recipe_is_found_at_its_corners(
    space: dict[str, Any], said: str, tmp_path: Path
) -> None:
    recipe = load_recipe(write(tmp_path, text(space=space)))
    assert recipe.search is not None
    with pytest.raises(RecipeError) as caught:
        corners_of(nowhere(tmp_path), recipe, recipe.search)
    assert said in str(caught.value)


def test_a_sweep_and_a_search_exclude_each_other(tmp_path: Path) -> None:
    both = yaml.safe_dump({**LINEAR, "search": SEARCH, "sweep": {WEIGHT: [1]}})
    with pytest.raises(RecipeError, match="sweep and search exclude each other"):
        load_recipe(write(tmp_path, both))
