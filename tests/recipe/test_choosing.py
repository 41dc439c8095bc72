"""What a selection means, the same in every command: names, sweeps, patterns, tags, groups, and what is made of them."""

from __future__ import annotations

import pytest

from merge_assets.errors import RecipeError
from merge_assets.recipe import RecipeBook
from merge_assets.recipe.choosing import choose, choose_known, is_selection, only

BODY = "merge_method: linear\nmodels: [{model: MODEL}]\nparameters: {weight: 1}\n"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> RecipeBook:
    root = tmp_path_factory.mktemp("recipes")

    def write(name: str, model: str, more: str = "") -> None:
        (root / f"{name}.yaml").write_text(f"{BODY.replace('MODEL', model)}{more}\n")

    write("mean", "org/a", "tags: {family: yi, size: small}\ngroup: means")
    write("child", "mean", "tags: {family: yi}")
    write("inner", "child", "materialize: false")
    write("grandchild", "inner")
    write("apart", "org/b", "group: stacks/deep")
    write("grid", "org/a", "sweep: {seed: [1, 2, 3, 4, 5]}")
    (root / "wrong.yaml").write_text("merge_method: linear\n")
    return RecipeBook.load([root])


POINTS = [f"grid-seed{number}" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["mean"], ["mean"]),
        (["org/x", "mean"], ["org/x", "mean"]),
        (["grid"], POINTS),
        (["grid-seed[12]", "grid-seed?"], POINTS),
        (["*child", "mean"], ["child", "grandchild", "mean"]),
        (["tag:family=yi"], ["child", "mean"]),
        (["tag:size"], ["mean"]),
        (["group:stacks/deep"], ["apart"]),
        (["mean+"], ["mean", "child", "grandchild"]),  # what is not stored is not built
        (["tag:size+", "apart"], ["mean", "child", "grandchild", "apart"]),
        (["*"], ["apart", "child", "grandchild", *POINTS, "mean"]),
    ],
)
def test_what_words_mean(words: list[str], names: list[str], book: RecipeBook) -> None:
    assert choose(book, words) == names


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("tag:family=yj", "did you mean 'tag:family=yi'"),
        ("tag:famly", "did you mean 'tag:family'"),
        ("group:mean", "did you mean 'group:means'"),
        ("grib*", "did you mean 'grid'"),
        ("zzz*", "`merge-assets recipes` lists them"),
        ("inner*", "no stored recipe is meant by 'inner*'"),
    ],
)
def test_what_means_nothing_is_an_error_with_what_is_near(word: str, near: str, book: RecipeBook) -> None:
    with pytest.raises(RecipeError) as caught:
        choose(book, [word])
    assert str(caught.value).startswith(f"no stored recipe is meant by {word!r}")
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_only_recipes_are_meant_another_name_is_an_error(book: RecipeBook) -> None:
    assert choose_known(book, ["grid", "mean"]) == [*POINTS, "mean"]
    with pytest.raises(RecipeError, match="there is no recipe 'meam', did you mean 'mean'"):
        choose_known(book, ["meam"])
    with pytest.raises(RecipeError, match=r"wrong.yaml:1: nothing to merge"):
        choose_known(book, ["wrong"])


def test_where_one_is_wanted_several_are_an_error_that_lists_some(book: RecipeBook) -> None:
    assert only(book, "tag:size") == "mean"
    with pytest.raises(RecipeError) as caught:
        only(book, "grid*")
    assert str(caught.value) == (
        "'grid*' means 5 recipes (grid-seed1, grid-seed2, grid-seed3, grid-seed4, …); name one"
    )


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        ("mean", False),
        ("mean+", True),
        ("grid", True),
        ("gr*d", True),
        ("tag:x", True),
        ("group:x", True),
        ("org/name", False),
        ("org/name@v1+other/lora", False),
        ("org/name+", False),
        ("./folder", False),
    ],
)
def test_a_selection_is_told_from_a_name(word: str, is_one: bool, book: RecipeBook) -> None:
    assert is_selection(book, word) == is_one
