"""Contract: a folder of recipes is read whole; what is wrong with one never takes unrelated ones down."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.recipe import RecipeBook
from merge_assets.reference import ModelReference
from tests.recipe_support import write


def recipe(*models: str, name: str | None = None) -> str:
    head = f"name: {name}\n" if name else ""
    return head + f"merge_method: linear\nmodels: [{', '.join(f'{{model: {model}}}' for model in models)}]\n"


def book(folder: Path, **files: str) -> RecipeBook:
    for name, text in files.items():
        write(folder, text, f"{name}.yaml")
    return RecipeBook.load([folder])


def errors(found: RecipeBook) -> dict[str, str]:
    return {entry.name: str(entry.error) for entry in found.broken}


def test_reads_folders_recursively_and_skips_hidden_and_underscored(tmp_path):
    write(tmp_path, recipe("x"), "b.yml")
    write(tmp_path, recipe("x"), "sub/deep/a.yaml")
    for skipped in ("_draft.yaml", ".hidden.yaml", ".git/c.yaml", "_old/d.yaml", "notes.txt", "e.yaml.bak"):
        write(tmp_path, "not: [a recipe", skipped)
    found = RecipeBook.load([tmp_path])
    assert list(found.recipes) == ["a", "b"] and found.broken == []


def test_a_file_reached_twice_is_one_recipe(tmp_path):
    write(tmp_path, recipe("x"), "sub/a.yaml")
    (tmp_path / "sub" / "link.yaml").symlink_to("a.yaml")
    found = RecipeBook.load([tmp_path, tmp_path / "sub"])
    assert list(found.recipes) == ["a"] and found.broken == []


def test_a_missing_folder_is_reported_and_the_others_are_read(tmp_path):
    write(tmp_path, recipe("x"), "here/a.yaml")
    found = RecipeBook.load([tmp_path / "gone", tmp_path / "here"])
    assert list(found.recipes) == ["a"]
    assert "the folder of recipes does not exist" in errors(found)["gone"]


def test_one_broken_file_leaves_the_others(tmp_path):
    found = book(tmp_path, good=recipe("x"), bad="merge_method: [", typo=recipe("x") + "dtpye: float32\n")
    assert list(found.recipes) == ["good"]
    assert set(errors(found)) == {"bad", "typo"}
    assert f"{tmp_path / 'bad.yaml'}:" in errors(found)["bad"]


def test_one_broken_document_leaves_the_others_of_its_file(tmp_path):
    text = recipe("x", name="one") + "---\nname: two\nmerge_method: linear\n---\n" + recipe("one", name="three")
    found = book(tmp_path, many=text)
    assert list(found.recipes) == ["one", "three"]
    assert list(errors(found)) == ["two"]


def test_a_broken_link_is_a_broken_recipe(tmp_path):
    (tmp_path / "lost.yaml").symlink_to("nowhere.yaml")
    assert "does not exist" in errors(RecipeBook.load([tmp_path]))["lost"]


def test_two_recipes_of_one_name_are_both_broken(tmp_path):
    found = book(tmp_path, a=recipe("x", name="same"), b=recipe("y", name="same"), c=recipe("z"))
    assert list(found.recipes) == ["c"]
    assert [(entry.name, entry.file.name, entry.error.key) for entry in found.broken] == [
        ("same", "a.yaml", "name"),
        ("same", "b.yaml", "name"),
    ]
    assert "b.yaml" in str(found.broken[0].error) and "a.yaml" in str(found.broken[1].error)


def test_two_documents_of_one_name_are_both_broken(tmp_path):
    found = book(tmp_path, many=recipe("x", name="same") + "---\n" + recipe("y", name="same"))
    assert found.recipes == {} and [entry.name for entry in found.broken] == ["same", "same"]


def test_a_cycle_breaks_its_recipes_and_what_uses_them_but_not_what_they_use(tmp_path):
    found = book(
        tmp_path,
        source=recipe("x"),
        a=recipe("source", "b"),
        b=recipe("y", "c"),
        c=recipe("a"),
        user=recipe("c"),
        other=recipe("source"),
    )
    assert list(found.recipes) == ["other", "source"]
    assert (
        f"{tmp_path / 'a.yaml'}:2: models[1].model: the recipe is made from itself (a <- b <- c <- a)"
        in errors(found)["a"]
    )
    assert "(b <- c <- a <- b)" in errors(found)["b"]
    assert "uses the recipe 'c', which is broken itself" in errors(found)["user"]


def test_a_recipe_that_names_itself(tmp_path):
    found = book(tmp_path, me=recipe("x", "me"))
    assert "models[1].model: the recipe is made from itself (me <- me)" in errors(found)["me"]


def test_between_two_cycles_a_recipe_is_not_called_a_cycle(tmp_path):
    found = book(tmp_path, a=recipe("a"), between=recipe("a"), b=recipe("b", "between"))
    assert "which is broken itself" in errors(found)["between"]


def test_a_recipe_made_of_a_broken_one_is_broken_through_any_number_of_steps(tmp_path):
    found = book(tmp_path, bad="merge_method: [", one=recipe("bad"), two=recipe("one"), fine=recipe("x"))
    assert list(found.recipes) == ["fine"]
    assert "models[0].model: uses the recipe 'bad'" in errors(found)["one"]
    assert "models[0].model: uses the recipe 'one'" in errors(found)["two"]


def test_references_to_recipes(tmp_path):
    found = book(tmp_path, low=recipe("org/base"), high=recipe("low", "org/low", "low@main"))
    assert found.resolve(ModelReference("low")) is found.recipes["low"]
    assert found.resolve(ModelReference("low", lora=ModelReference("org/adapter"))) is found.recipes["low"]
    assert found.resolve(ModelReference("low", "main")) is None
    assert found.resolve(ModelReference("org/low")) is None
    assert found.parents("high") == ["low"] and found.parents("low") == []


def test_order_and_descendants(tmp_path):
    found = book(tmp_path, z=recipe("x"), m=recipe("z"), a=recipe("m", "z"), b=recipe("z", "a"), alone=recipe("x"))
    assert found.order() == ["alone", "z", "m", "a", "b"]
    assert found.descendants("z") == ["m", "a", "b"]
    assert found.descendants("a") == ["b"]
    assert found.descendants("alone") == []
    assert found.parents("b") == ["z", "a"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sets(st.integers(0, 7), max_size=4), min_size=8, max_size=8))
def test_whatever_the_graph_every_recipe_is_either_ordered_or_broken(tmp_path_factory, uses):
    """Oracle: a recipe is usable exactly if nothing above it, itself included, can be reached from itself."""
    folder = tmp_path_factory.mktemp("graph")
    for number, parents in enumerate(uses):
        write(folder, recipe("x", *(f"r{parent}" for parent in sorted(parents))), f"r{number}.yaml")
    above = [{number} for number in range(8)]
    strictly = [set(parents) for parents in uses]
    for _ in range(8):
        for number in range(8):
            strictly[number] |= {far for near in uses[number] for far in strictly[near]}
    for number in range(8):
        above[number] |= strictly[number]
    usable = {number for number in range(8) if not any(item in strictly[item] for item in above[number])}
    found = RecipeBook.load([folder])
    assert {int(name[1:]) for name in found.recipes} == usable
    assert {int(entry.name[1:]) for entry in found.broken} == set(range(8)) - usable
    order = [int(name[1:]) for name in found.order()]
    assert sorted(order) == sorted(usable)
    assert all(order.index(parent) < order.index(number) for number in usable for parent in uses[number])
    for number in usable:
        expected = {other for other in usable if number in strictly[other]}
        assert {int(name[1:]) for name in found.descendants(f"r{number}")} == expected


@pytest.mark.parametrize("count", [300])
def test_a_long_chain_of_merges_is_no_problem(tmp_path, count):
    for number in range(count):
        write(tmp_path, recipe(f"r{number - 1}" if number else "x"), f"r{number}.yaml")
    found = RecipeBook.load([tmp_path])
    assert found.order() == [f"r{number}" for number in range(count)]
    assert len(found.descendants("r0")) == count - 1


# -- recipes that are not stored ---------------------------------------------------------------------------------------

UNSTORED = "materialize: false\n"


def test_models_of_a_recipe_that_is_not_stored_stand_in_for_it(tmp_path):
    found = book(
        tmp_path,
        inner=UNSTORED + recipe("org/a", "org/b"),
        middle=UNSTORED + recipe("inner", "org/c"),
        outer=recipe("org/b", "middle", "stored"),
        stored=recipe("inner"),
    )
    outer = found.recipes["outer"]
    assert list(map(str, found.inputs(outer))) == ["org/b", "org/a", "org/c", "stored"]
    assert [inner.name for inner in found.folded(outer)] == ["inner", "middle"]
    assert found.folded(found.recipes["inner"]) == ()
    assert found.parents("outer") == ["middle", "stored"]


def test_consumers_are_the_stored_recipes_that_it_ends_up_in(tmp_path):
    found = book(
        tmp_path,
        inner=UNSTORED + recipe("org/a"),
        middle=UNSTORED + recipe("inner"),
        first=recipe("middle"),
        second=recipe("inner"),
        third=recipe("first"),
    )
    assert found.consumers("inner") == ["first", "second"]
    assert found.consumers("middle") == ["first"]


def test_a_revision_or_a_stored_recipe_is_not_folded(tmp_path):
    found = book(tmp_path, inner=UNSTORED + recipe("org/a"), stored=recipe("org/a"))
    named = [ModelReference("inner"), ModelReference("inner", "v1"), ModelReference("stored"), ModelReference("org/a")]
    assert [found.resolve_folded(reference) is not None for reference in named] == [True, False, False, False]
