"""Contract of the model card: its front matter is one that the Hub takes, and what models are called is no markup."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from merge_assets.api.joined import card_rows
from merge_assets.plan import Plan
from merge_assets.plan.model import PlannedModel
from merge_assets.recipe import Published, Recipe, load_recipe
from merge_assets.variant.card import model_card, with_scores
from tests.leaderboard_support import row, scores
from tests.merging import plan_text
from tests.synthetic import write_llama

FINGERPRINT = "0123456789abcdef"
SNAPSHOT = "/cache/models--org--a/snapshots/77"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Recipe]:
    folder = tmp_path_factory.mktemp("card")
    write_llama(folder / "a", 2)
    write_llama(folder / "b", 2, seed=1)
    head = "name: mix\ndescription: Both *halves*\nmerge_method: linear\nparameters: {weight: 1}\n# ```\n"
    plan = plan_text(f"{head}models: [{{model: {folder}/a}}, {{model: {folder}/b}}]\n", folder)
    return plan, load_recipe(next(folder.glob("*.yaml")))


def of(plan: Plan, *models: tuple[str, str]) -> Plan:
    return replace(plan, models=tuple(PlannedModel(*model, FINGERPRINT) for model in models))


def test_only_models_of_the_hub_are_named_as_base_models(made: tuple[Plan, Recipe], tmp_path: Path) -> None:
    plan, recipe = made
    models = of(
        plan,
        ("org/a@main+./lora", SNAPSHOT),
        ("org/a@v2", "hf://org/a@77"),
        ("org/b", "hf://org/b@77"),
        ("org/folder", str(tmp_path / "org/folder")),
        ("./lora", str(tmp_path / "lora")),
        (str(tmp_path / "c"), str(tmp_path / "c")),
        ("s3://bucket/d", "s3://bucket/d"),
        ("recipe", "/store/variants/recipe/77"),
    )
    card = ModelCard(model_card(models, recipe))
    assert card.data.to_dict() == {
        "base_model": ["org/a", "org/b"],
        "library_name": "transformers",
        "tags": ["merge", "merge-assets", "linear"],
    }
    assert "- `c` (fingerprint `0123456789ab`)\n" in card.text


def test_a_card_without_models_of_the_hub_names_no_base_model(made: tuple[Plan, Recipe]) -> None:
    text = model_card(*made)
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert ModelCard(text).content == text


def test_what_a_card_says(made: tuple[Plan, Recipe]) -> None:
    figures = ({"layer": 1, "tensor": "v_proj", "value": None, "margin": 1.23456},)
    plan, recipe = made
    made_up = [{"suite": "demo", "task": "a|b<i>", "metric": "acc", "value": "50.0"}]
    card = ModelCard(with_scores(model_card(replace(plan, removed_layers=figures), recipe), "77" * 32, made_up)).text
    assert card.startswith("\n# mix\n\nBoth \\*halves\\*\n\nA merge of 2 checkpoints by `linear`, ")
    assert "\n## Layers\n\n| output layers | made of |\n|---|---|\n| before the layers | a + b |\n" in card
    assert "\n## Parameters\n\n| for | parameter | in | value |\n|---|---|---|---|\n| a | weight | all | 1 |\n" in card
    assert (
        "\n\n## Removed layers\n\n| layer | tensor | value | margin |\n|---|---|---|---|\n| 1 | v_proj | ∞ | 1.235 |\n\n"
        in card
    )
    assert "\n\n## Scores\n\nOf version `777777777777`.\n\n| suite | task | metric | value |\n" in card
    assert "\n| demo | a\\|b\\<i\\> | acc | 50.0 |\n\n## Recipe\n\n````yaml\n" in card
    last = MarkdownIt("commonmark").parse(card)[-1]
    assert (last.type, last.content) == ("fence", re.sub(r"/\S+/(?=[ab]})", "", recipe.source.text.rstrip()) + "\n")


def test_what_others_published_is_said_to_be_theirs_and_stands_beside_what_was_measured(
    made: tuple[Plan, Recipe],
) -> None:
    plan, recipe = made
    table = Published(source="a table", suite="demo", values={"t": 49.5, "average": 60})
    text = model_card(plan, recipe.model_copy(update={"published": (table,)}))
    assert "## Published by others\n\nNot measured here; accuracies in percent.\n\n" in text
    assert "\n| mix | demo | t | 49.5 | a table |\n| mix | demo | average | 60 | a table |\n\n" in text
    scored = scores("mix", row("t", "acc", 0.5))
    section = with_scores(text, "77", card_rows([scored], published=[table])).partition("## Scores")[2]
    assert "| demo | average |  | 50.0 | 60 (−10.0) |" in section
    assert "| demo | t | acc | 50.0 | 49.5 (+0.5) |" in section


def test_scores_stand_before_the_recipe_whatever_texts_say(made: tuple[Plan, Recipe]) -> None:
    plan, recipe = made
    source = recipe.source.model_copy(update={"text": f"{recipe.source.text}\n## Recipe\n\n```yaml\n"})
    card = model_card(plan, recipe.model_copy(update={"description": "## Recipe", "source": source}))
    assert with_scores(card, "77", []) == card
    scored = with_scores(card, "77", [{"suite": "demo", "task": "t", "metric": "acc", "value": "50.0"}])
    before, section, after = scored.partition("## Scores\n\nOf version `77`.\n\n")
    assert section
    rows, recipe_head, text = after.partition("\n## Recipe\n\n````yaml\n")
    assert rows == "| suite | task | metric | value |\n|---|---|---|---|\n| demo | t | acc | 50.0 |\n"
    assert before + recipe_head[1:] + text == card


def test_a_card_is_published_and_calls_folders_of_this_machine_by_their_names(tmp_path: Path) -> None:
    for folder in ("x/a", "y/a", "y/my_lora"):
        write_llama(tmp_path / folder, 2)
    text = (
        f"merge_method: linear\nparameters: {{weight: 1}}\ndescription: of {tmp_path}/x/a\n"
        f"# see {tmp_path}/notes/of_mine.txt, https://example.org/a/b and ~/more/notes\n"
        f"models: [{{model: {tmp_path}/x/a}}, {{model: {tmp_path}/y/a}}, {{model: {tmp_path}/y/my_lora}}]\n"
    )
    plan = plan_text(text, tmp_path)
    card = model_card(plan, load_recipe(next(tmp_path.glob("*.yaml"))))
    assert str(tmp_path) not in card and "~/" not in card
    for part in (
        "of x/a\n",
        "- `x/a`\n",
        "- `y/a`\n",
        "- `y/my_lora`\n",
        "models: [{model: x/a}, {model: y/a}, {model: y/my_lora}]",
        "# see of_mine.txt, https://example.org/a/b and notes\n",
    ):
        assert part in card


ACTING = "a\x1b[31mb\x07\x9bc\x7f\u202ed\u2066e\U000e0041"


@given(st.text(alphabet="`~\r\n #-|<>[]()!\\a" + ACTING, min_size=1, max_size=40))
@settings(max_examples=60)
def test_nothing_breaks_out_of_a_card(made: tuple[Plan, Recipe], text: str) -> None:
    """Of all that strangers can write into one; oracle: markdown-it."""
    plan, recipe = made
    source = recipe.source.model_copy(update={"text": f"a: {text}\nend"})
    table = Published.model_construct(source=text, suite=text, model=text, values={text: 1.5})
    hostile = recipe.model_copy(update={"description": f"x{text}", "source": source, "published": (table,)})
    figures = ({"layer": 1, "tensor": text, "value": None, "margin": 1.0},)
    scores = [{"suite": text, "task": text, "metric": text, "value": text, "published": text}]
    of = replace(plan, removed_layers=figures, models=(PlannedModel(f"m{text}", "/x", FINGERPRINT),) * 2)
    with suppress(ValueError):  # what is no reference never becomes a plan
        card = ModelCard(with_scores(model_card(of, hostile), "77", scores)).text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066\U000e0041]", card)
        blocks = MarkdownIt("commonmark").enable("table").parse(card)
        fence = blocks[-1]
        assert fence.type == "fence" and fence.content.rstrip().endswith("end")
        heads = [blocks[at + 1].content for at, block in enumerate(blocks) if block.type == "heading_open"]
        assert heads == [
            "mix",
            "Models",
            "Layers",
            "Parameters",
            "Removed layers",
            "Published by others",
            "Scores",
            "Recipe",
        ]
        assert not [block for block in blocks if block.type == "html_block"]
