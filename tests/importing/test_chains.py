"""Several configs of one page that are made of each other become recipes that refer to each other, with nothing lost unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets.importing.config import import_text
from merge_assets.importing.folding import folded
from merge_assets.importing.mending import Imported
from merge_assets.recipe import Recipe
from tests.importing.test_config import LINEAR, PARAMETERS, refusal

CARD = Path("card.md")


def slerp(a: str, b: str = "org/z") -> str:
    return (
        f"models:\n  - model: {a}\n  - model: {b}\nmerge_method: slerp\nbase_model: {a}\nparameters:\n  t: 0.5\n"
        "dtype: bfloat16\n"
    )


def fence(text: str) -> str:
    return f"```yaml\n{text}```\n"


def imported(card: str, pick: int | None = None) -> Imported:
    return import_text(card, CARD, "found", PARAMETERS, pick)


def lineage(recipes: tuple[Recipe, ...]) -> str:
    """The last recipe as a tree: every step in brackets, as what it is made of."""
    by_name = {recipe.name: recipe for recipe in recipes}

    def tree(name: str) -> str:
        recipe = by_name.get(name)
        return name if recipe is None else f"[{' '.join(tree(model.path) for model in recipe.references())}]"

    return tree(recipes[-1].name)


TWO = "[[org/a org/b] org/z]"
THREE = "[[[org/a org/b] org/z] org/y]"
SHAPES = {
    "names": (f"{fence('name: half' + chr(10) + LINEAR)}\n{fence(slerp('half'))}", TWO),
    "a heading above": (f"## Step one: Half-Way\n\n{fence(LINEAR)}\n## The end\n{fence(slerp('me/Half-Way'))}", TWO),
    "a heading of a page": (f"<h2>Merge1</h2>\n{fence(LINEAR)}<div><h2>End</h2></div>\n{fence(slerp('Merge1'))}", TWO),
    "a line above": (f"This makes `step1`:\n\n{fence(LINEAR)}\nand last\n{fence(slerp('./step1'))}", TWO),
    "a file's name above": (f"`one.yml`\n{fence(LINEAR)}`two.yml`\n{fence(slerp('./one'))}", TWO),
    "a file's name at the fence": (f"```yaml title=one.yml\n{LINEAR}```\nthen\n{fence(slerp('./one'))}", TWO),
    "a comment": (f"{fence('# one' + chr(10) + LINEAR)}\n{fence('# two' + chr(10) + slerp('/root/one'))}", TWO),
    "arrows above": (
        f"org/a + org/b → one\n{fence(LINEAR)}one + org/z → two\n{fence(slerp('one'))}two + org/y → last\n"
        f"{fence(slerp('/home/me/two', 'org/y'))}",
        THREE,
    ),
    "arrows below": (
        f"How it was made\n{fence(LINEAR)}=> one\n{fence(slerp('one'))}=> two\n{fence(slerp('two', 'org/y'))}=> last\n",
        THREE,
    ),
    "commands below": (
        f"{fence(LINEAR)}\n    mergekit-yaml a.yml ./one --cuda\n{fence(slerp('./one'))}\n    mergekit-yaml b.yml ./two\n",
        TWO,
    ),
    "folders of mergekit-multi": (
        fence(f"name: one\n{LINEAR}---\nname: two\n{slerp('one')}---\n{slerp('./intermediates/two', 'org/y')}"),
        THREE,
    ),
    "numbers": (
        f"### Model 1\n{fence(LINEAR)}### Model 2\n{fence(slerp('org/e', 'org/f'))}### Final\n"
        f"{fence(slerp('model_1', 'model_2'))}",
        "[[org/a org/b] [org/e org/f]]",
    ),
    "the final one above": (f"## Final\n{fence(slerp('./inter'))}## inter\n{fence(LINEAR)}", TWO),
    "two in one fence": (fence(LINEAR + "\n# the second\n" + slerp("./merge", "org/z")), TWO),
    "one outside of fences": (f"{fence('name: half' + chr(10) + LINEAR)}\nThen:\n\n{slerp('half')}\nThe end\n", TWO),
    "an open fence": (f"```yaml\nname: half\n{LINEAR}\n{fence(slerp('half'))}", TWO),
    "a stray backtick": (
        f"## S1\n{fence(LINEAR)}## S2\n{fence(slerp('S1'))}## S3\n{fence('`' + slerp('S2', 'org/y'))}",
        THREE,
    ),
    "an adapter": (f"## S1\n{fence(LINEAR)}## End\n{fence(slerp('./S1+org/lora'))}", "[[org/a org/b] org/z]"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chain_comes_whole_however_its_steps_are_called(shape: str) -> None:
    card, tree = SHAPES[shape]
    found = imported(card)
    assert lineage(found.recipes) == tree
    assert found.recipes[-1].name == "found"
    assert found.unread == ()
    if shape != "folders of mergekit-multi":
        assert found.place.startswith("all ")


def test_what_was_written_otherwise_or_guessed_is_said() -> None:
    found = imported(SHAPES["a line above"][0])
    assert found.repairs == ("names of steps (./step1 is found-step1, the config at line 4)",)
    assert found.choices == ()
    guessed = imported(fence(LINEAR) + "more\n" + fence(slerp("/content/out")))
    assert lineage(guessed.recipes) == TWO
    assert guessed.choices == ("/content/out is taken for the config at line 2, as nothing else names that one",)
    by_part = imported(SHAPES["a heading above"][0])
    assert by_part.choices == ("me/Half-Way is taken for the config at line 4, by its last part",)


def test_a_step_that_cannot_be_read_is_counted_and_named() -> None:
    broken = LINEAR.replace("models", "modles")
    found = imported(f"## S1\n{fence(broken)}## S2\n{fence(slerp('S1'))}## S3\n{fence(slerp('S2', 'org/y'))}")
    assert lineage(found.recipes) == "[[S1 org/z] org/y]"
    assert found.place == "2 of 3 configs, which are made of each other"
    assert found.unread == (
        "the config at line 3: modles: unknown key, did you mean 'modules'?",
        "S1 is made by the config at line 3, which cannot be read",
    )


def test_what_two_configs_may_make_is_left_open() -> None:
    found = imported(f"## merge\n{fence(LINEAR)}## merge\n{fence(LINEAR)}## end\n{fence(slerp('./merge'))}")
    assert lineage(found.recipes) == "[./merge org/z]"
    assert found.unread == ("./merge may be what the configs at lines 3 and 15 make; name it yourself",)


def test_names_on_the_hub_are_no_steps_unless_a_heading_says_so() -> None:
    found = imported(f"a mix of org/c and org/b\n{fence(LINEAR)}then\n{fence(slerp('org/c'))}")
    assert lineage(found.recipes) == "[org/c org/z]"
    assert found.place.endswith("the last of 2; --pick takes another")


def test_pick_counts_what_the_message_counted() -> None:
    card = SHAPES["arrows above"][0]
    assert imported(card).place == "all 3 configs, which are made of each other"
    assert lineage(imported(card, pick=2).recipes) == TWO
    assert imported(card, pick=2).place.startswith("2 of 3 configs")
    assert lineage(imported(card, pick=1).recipes) == "[org/a org/b]"
    broken = f"{fence(LINEAR)}and\n{fence('merge_method: linear' + chr(10) + 'modles: []' + chr(10))}"
    assert imported(broken).place == "code block at line 2, the only whole one of 2"
    with pytest.raises(Exception, match="modles"):
        imported(broken, pick=2)


def test_configs_that_name_each_other_in_a_circle_stay_apart() -> None:
    found = imported(f"## one\n{fence(slerp('./two'))}## two\n{fence(slerp('./one'))}")
    assert lineage(found.recipes) in ("[./two org/z]", "[[./two org/z] org/z]", "[[./one org/z] org/z]")


def test_two_methods_in_one_config_are_no_two_configs() -> None:
    assert "merge_method" in refusal(LINEAR + "merge_method: slerp\n")


# -- folding -----------------------------------------------------------------------------------------------------------


def test_steps_are_folded_unless_they_must_be_stored() -> None:
    found = folded(imported(SHAPES["arrows above"][0]), CARD, "found")
    assert [recipe.materialize for recipe in found.recipes] == [False, False, True]
    assert found.text.count("materialize: false\n") == 2
    own = f"name: half\nmaterialize: true\n{LINEAR}---\nname: end\n{slerp('half')}"
    assert [one.materialize for one in folded(imported(fence(own)), CARD, "x").recipes] == [True, True]
    braces = (
        "{name: half, models: [{model: org/a}], merge_method: linear}\n---\n{name: end, merge_method: passthrough, "
    )
    analysed = "prune_layers: {model: half, by: snr, tensor: self_attn.v_proj, remove: infinite}}\n"
    assert [one.materialize for one in folded(imported(braces + analysed), CARD, "x").recipes] == [True, True]
    models = "models: [{model: half}]}\n"
    assert [one.materialize for one in folded(imported(braces + models), CARD, "x").recipes] == [False, True]
