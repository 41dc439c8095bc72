"""A sweep is many recipes: each is what a person would have written by hand with its values in their places."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.errors import RecipeError
from merge_assets.recipe import Range, Recipe, RecipeBook, load_recipe, load_recipes
from merge_assets.recipe.choosing import choose
from merge_assets.recipe.parameters import Misfit
from merge_assets.recipe.places import parse_path, placed
from merge_assets.yamlfile import spell
from tests.recipe_support import write

LINEAR: dict[str, Any] = {
    "name": "mix",
    "merge_method": "linear",
    "models": [
        {"model": "org/a", "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]}},
        {"model": "org/b", "parameters": {"weight": 1}},
    ],
    "parameters": {"normalize": True},
}


def swept(folder: Path, sweep: object, content: dict[str, Any] = LINEAR) -> list[Recipe]:
    return load_recipes(write(folder, yaml.safe_dump({**content, "sweep": sweep}, sort_keys=False)))


def by_hand(folder: Path, edit: Any) -> str:
    """The digest of the recipe after a person's edit."""
    content = copy.deepcopy(LINEAR)
    edit(content)
    return load_recipe(write(folder, yaml.safe_dump(content, sort_keys=False), "hand.yaml")).digest


def set_weight(value: object) -> Any:
    return lambda content: content["models"][1]["parameters"].update(weight=value)


def broken(folder: Path, sweep: object, content: dict[str, Any] = LINEAR) -> str:
    with pytest.raises(RecipeError) as caught:
        swept(folder, sweep, content)
    return str(caught.value)


WEIGHT = "models[1].parameters.weight"


def test_each_point_is_the_recipe_that_one_would_have_written(tmp_path: Path) -> None:
    points = swept(tmp_path, {WEIGHT: [0.3, 2, [0, 1]]})

    assert [point.digest for point in points] == [by_hand(tmp_path, set_weight(value)) for value in (0.3, 2, [0, 1])]
    assert [point.name for point in points] == ["mix-weight0.3", "mix-weight2", "mix-weight0_1"]
    assert [point.swept and point.swept.number for point in points] == [0, 1, 2]


def test_a_point_of_a_gradient_a_layer_range_and_a_key_of_a_template_are_places(tmp_path: Path) -> None:
    (one,) = swept(tmp_path, {"models[0].parameters.weight[0].value[1]": [0.75]})
    assert one.digest == by_hand(tmp_path, lambda c: c["models"][0]["parameters"]["weight"][0].update(value=[0, 0.75]))
    dus = {"name": "d", "merge_method": "passthrough", "depth_upscale": {"model": "org/a", "overlap": 8}}
    points = swept(tmp_path, {"depth_upscale": {"overlap": [2, 4], "block": [1, 2]}}, dus)
    assert [p.name for p in points] == [f"d-overlap{o}-block{b}" for o in (2, 4) for b in (1, 2)]
    assert [(p.depth_upscale.overlap, p.depth_upscale.block) for p in points if p.depth_upscale] == [
        (2, 1), (2, 2), (4, 1), (4, 2),
    ]  # fmt: skip
    cut = {
        "name": "c",
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "org/a", "layer_range": [0, 9]}]}],
    }
    points = swept(tmp_path, {"slices[0].sources[0].layer_range": [[0, 4], [1, 5]]}, cut)
    assert [p.slices[0].sources[0].layer_range for p in points if p.slices] == [(0, 4), (1, 5)]


def test_lists_of_a_zip_go_together_and_those_of_a_grid_do_not(tmp_path: Path) -> None:
    sweep = {"zip": {WEIGHT: [1, 2], "parameters.normalize": [True, False]}, "grid": {"seed": [5, 6]}}
    points = swept(tmp_path, sweep)

    found = [tuple(point.swept.values.values()) for point in points if point.swept]
    assert found == [(5, 1, True), (5, 2, False), (6, 1, True), (6, 2, False)]
    assert points[0].seed == 5
    assert "has 2 values, and" in broken(tmp_path, {"zip": {WEIGHT: [1, 2, 3], "seed": [1, 2]}})


@given(st.floats(-9, 9), st.floats(0.1, 9), st.integers(2, 40))
def test_a_range_of_a_count_is_evenly_spaced_and_has_both_ends(low: float, width: float, count: int) -> None:
    values = Range(low=low, high=low + width, count=count).values()

    assert len(values) == count
    assert values[0] == pytest.approx(low, abs=1e-9) and values[-1] == pytest.approx(low + width)
    assert all(b - a == pytest.approx(width / (count - 1), abs=1e-9) for a, b in itertools.pairwise(values))


def test_ranges_by_steps_by_ratios_and_of_whole_numbers() -> None:
    assert Range(low=0, high=1, step=0.1).values() == tuple(float(f"{k / 10:.1f}") for k in range(11))
    assert Range(low=1, high=6, step=2).values() == (1, 3, 5)
    assert [repr(value) for value in Range(low=2, high=8, count=4).values()] == ["2", "4", "6", "8"]
    assert Range(low=0, high=1, count=5).values() == (0, 0.25, 0.5, 0.75, 1)
    assert Range(low=0.01, high=1, count=3, log=True).values() == (0.01, 0.1, 1.0)
    assert [type(value) for value in Range(low=1, high=3, step=1).values()] == [int] * 3


def test_more_points_and_more_places_leave_the_points_that_were_drawn_as_they_are(tmp_path: Path) -> None:
    space: dict[str, object] = {WEIGHT: {"low": 0.1, "high": 10, "log": True}}
    few = swept(tmp_path, {"random": {"points": 40, "seed": 3, "space": space}})
    many = swept(
        tmp_path,
        {"random": {"points": 60, "seed": 3, "space": {**space, "seed": {"low": 1, "high": 3, "whole": True}}}},
    )
    other = swept(tmp_path, {"random": {"points": 40, "seed": 4, "space": space}})

    weights = [[p.swept.values[WEIGHT] for p in points if p.swept] for points in (few, many, other)]
    assert weights[1][:40] == weights[0] != weights[2]
    assert all(0.1 <= weight <= 10 for weight in weights[0])
    assert 12 < sum(weight < 1 for weight in weights[0]) < 28  # half of a logarithmic scale; of 40 all but 1 % of draws
    assert {p.seed for p in many} == {1, 2, 3}


def test_a_point_that_is_drawn_again_is_the_one_that_is_there(tmp_path: Path) -> None:
    points = swept(tmp_path, {"random": {"points": 50, "space": {"seed": [1, 2], "dtype": ["float32", "float16"]}}})
    assert len({tuple(p.swept.values.values()) for p in points if p.swept}) == len(points) == 4


def test_a_table_has_a_point_in_each_line_and_is_read_with_the_recipes(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    write(folder, yaml.safe_dump({**LINEAR, "sweep": {"table": "points.csv"}}, sort_keys=False))
    write(folder, f'{WEIGHT},dtype\n0.5,float32\n"[0, 1]",bfloat16\n', "points.csv")
    write(folder, "not a table of anything", "other.csv")
    book = RecipeBook.load([folder])

    assert [r.swept.values for r in book.sweeps["mix"] if r.swept] == [
        {WEIGHT: 0.5, "dtype": "float32"}, {WEIGHT: [0, 1], "dtype": "bfloat16"},
    ]  # fmt: skip
    (folder / "points.csv").unlink()  # a run goes on with what it was planned with
    assert RecipeBook.of(book.texts).recipes == book.recipes
    assert [text.file.name for text in book.texts] == ["points.csv", "recipe.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed\n", "points.csv: holds no points"),
        ("seed,dtype\n1\n", "points.csv:2: has 1 cells, and the first line 2"),
        ("seed\n1\n''''\"\n", "points.csv"),
        ("seed,dtype\n1,\n", "points.csv:2: dtype: the cell is empty"),
    ],
)
def test_a_table_that_says_nothing_is_an_error_of_its_line(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, text, "points.csv")
    assert said in broken(tmp_path, {"table": "points.csv"})


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({}, "write key paths with their values"),
        ({WEIGHT: []}, "is empty; write at least one entry"),
        ({WEIGHT: 0.5}, "0.5 is neither a list of values nor a range"),
        ({WEIGHT: {"low": 1, "high": 1, "count": 3}}, "nothing lies between 1 and 1"),
        ({WEIGHT: {"low": 0, "high": 1, "count": 3, "log": True}}, "has no place for 0; write a low above 0"),
        ({WEIGHT: {"low": 0, "high": 1}}, "exactly one of count and step"),
        ({WEIGHT: {"low": 0, "high": 1, "step": 2}}, "leads from 0 to no second value up to 1"),
        (
            {"random": {"points": 1, "space": {"seed": {"low": 0.5, "high": 2, "whole": True}}}},
            "0.5 is no whole number",
        ),
        ({"models[2].parameters.weight": [1]}, "models has 2 entries, [0] to [1]"),
        ({"merge_method.t": [1]}, "merge_method is 'linear', not a mapping"),
        ({"parameters[0]": [1]}, "is {'normalize': True}, not a list"),
        ({"parameters..t": [1]}, "is no key path of a recipe"),
        ({"paramters.t": [1]}, "paramters: unknown key, did you mean 'parameters'?; at the point paramters.t: 1"),
        ({"dtype": ["float32", "float8"]}, "unknown dtype 'float8'"),
        ({"grid": {"seed": [1]}, "zip": {"seed": [2]}}, "seed is given values twice"),
        ({"seed": {"low": 1, "high": 2000, "step": 1}}, "has 1001 points; at most 1000"),
        ({"table": "../points.csv"}, "is not the name of a .csv file that lies beside the recipe"),
        ({"table": "gone.csv"}, "gone.csv: the file does not exist"),
        ({"seed": [1, 1]}, "'mix-seed1' is the name of 2 recipes of this file"),
    ],
)
def test_a_malformed_space_is_one_error_that_names_what_is_wrong(sweep: object, said: str, tmp_path: Path) -> None:
    text = broken(tmp_path, sweep)
    assert said in text and str(tmp_path) in text


def test_a_sweep_with_a_wrong_point_is_one_broken_recipe(tmp_path: Path) -> None:
    write(tmp_path, yaml.safe_dump({**LINEAR, "sweep": {"dtype": ["float32", "float8", "float9"]}}))
    book = RecipeBook.load([tmp_path])

    assert not book.recipes and [entry.name for entry in book.broken] == ["mix"]
    assert "at the point dtype: 'float8'" in str(book.broken[0].error)


def test_names_stay_when_values_are_added_and_are_digests_where_they_would_be_too_long(tmp_path: Path) -> None:
    few, more = (swept(tmp_path, {WEIGHT: values}) for values in ([0.1, 0.3], [0.1, 0.2, 0.3]))
    assert {p.name for p in few} < {p.name for p in more}
    gradients = swept(tmp_path, {WEIGHT: [[k + (i + 1) / 7 for k in range(16)] for i in range(5)]})
    assert len({p.name for p in gradients}) == 5 and all(len(p.name) < 20 for p in gradients)
    twice = swept(tmp_path, {WEIGHT: [1], "models[0].parameters.weight": [2]})
    assert twice[0].name == "mix-weight_1_1-weight_0_2"


def test_a_point_has_a_recipe_of_its_own_beside_its_variant(tmp_path: Path) -> None:
    (point,) = swept(tmp_path, {WEIGHT: [0.3]}, {**LINEAR, "description": "a mix"})
    alone = load_recipe(write(tmp_path, point.source.text, "alone.yaml"))

    assert point.source.text.startswith(f"# A point of mix of recipe.yaml: {WEIGHT}: 0.3\n")
    assert (alone.digest, alone.name, alone.description) == (point.digest, "mix-weight0.3", "a mix")
    assert point.group == "mix"


def test_a_recipe_cannot_be_called_as_a_sweep_is(tmp_path: Path) -> None:
    write(tmp_path, yaml.safe_dump({**LINEAR, "sweep": {WEIGHT: [1, 2]}}), "one.yaml")
    write(tmp_path, yaml.safe_dump(LINEAR), "two.yaml")
    book = RecipeBook.load([tmp_path])

    assert sorted(book.recipes) == ["mix-weight1", "mix-weight2"]
    assert "'mix' is also the name of a sweep in" in str(book.broken[0].error)


_KEYS = st.text("abcdefg_", min_size=1, max_size=4)
_CONTENT = st.recursive(
    st.integers() | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)
)


@given(st.dictionaries(_KEYS, _CONTENT, max_size=4), st.lists(_KEYS | st.integers(0, 3), max_size=4), _KEYS)
def test_putting_a_value_in_its_place_changes_that_place_alone(content: Any, rest: Any, first: str) -> None:
    path = (first, *rest)
    assert parse_path(spell(path)) == path
    before = copy.deepcopy(content)
    try:
        made = placed(content, path, "new")
    except Misfit:
        made = None
    assert content == before
    if made is None:
        return
    reached = made
    for part in path:
        reached = reached[part]
    assert reached == "new"

    def leaves(node: Any, where: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        return {where: node} if not children else {k: v for p, c in children for k, v in leaves(c, (*where, p)).items()}

    kept = {
        where: leaf for where, leaf in leaves(before).items() if where[: len(path)] != path and leaf not in ({}, [])
    }
    assert {where: leaf for where, leaf in leaves(made).items() if where in kept} == {
        where: leaf for where, leaf in kept.items() if where not in {path[:n] for n in range(len(path))}
    }


# -- choosing ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> RecipeBook:
    write(tmp_path, yaml.safe_dump({**LINEAR, "sweep": {WEIGHT: [1, 2]}}), "one.yaml")
    tagged = {**LINEAR, "name": "mean", "tags": {"family": "yi"}, "group": "blends", "materialize": True}
    write(tmp_path, yaml.safe_dump(tagged), "two.yaml")
    write(
        tmp_path, "{name: inner, materialize: false, merge_method: passthrough, models: [{model: mean}]}", "three.yaml"
    )
    write(tmp_path, "{name: last, merge_method: passthrough, models: [{model: inner}]}", "four.yaml")
    return RecipeBook.load([tmp_path])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["mean"], ["mean"]),
        (["mix"], ["mix-weight1", "mix-weight2"]),
        (["m*1", "m*n"], ["mix-weight1", "mean"]),
        (["mix", "mix-weight2"], ["mix-weight1", "mix-weight2"]),
        (["tag:family=yi"], ["mean"]),
        (["tag:family"], ["mean"]),
        (["group:blends"], ["mean"]),
        (["mean+"], ["mean", "last"]),
        (["unknown"], ["unknown"]),
        ([], []),
    ],
)
def test_words_choose_recipes(words: list[str], names: list[str], book: RecipeBook) -> None:
    assert choose(book, words) == names


@pytest.mark.parametrize("word", ["tag:family=qwen", "x*", "group:none"])
def test_a_pattern_of_nothing_is_an_error(word: str, book: RecipeBook) -> None:
    with pytest.raises(RecipeError, match="no stored recipe is meant by"):
        choose(book, [word])


def test_the_points_that_tell_what_a_sweep_changes_are_the_same_for_all(tmp_path: Path) -> None:
    sweep = {"grid": {"seed": [1, 2, 3], WEIGHT: [1, 2]}}
    write(tmp_path, yaml.safe_dump({**LINEAR, "sweep": sweep}, sort_keys=False))
    book = RecipeBook.load([tmp_path])

    telling = {tuple(point.name for point in book.beside(recipe)) for recipe in book.recipes.values()}
    assert telling == {("mix-seed1-weight1", "mix-seed2-weight1", "mix-seed1-weight2")}
