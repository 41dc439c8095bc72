"""Lost indentation is rebuilt for every recipe of the schema, and no text at all makes the importer fail otherwise.

Where lines can be put together in more than one way, the choice is said, so that nobody is misled in silence.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from merge_assets.errors import RecipeError
from merge_assets.importing.config import import_text
from merge_assets.importing.mending import Imported
from merge_assets.importing.operations import OPERATIONAL
from merge_assets.importing.shapes import recipe_shape, schema_keys
from merge_assets.recipe import Recipe
from merge_assets.recipe.load import BrokenRecipe, read_recipes
from merge_assets.recipe.problems import HIDDEN_KEYS
from tests.importing.test_config import PARAMETERS, SLERP, flat
from tests.recipe_strategies import recipes

pytestmark = pytest.mark.slow

FILE = Path("page.txt")
SLOW = settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def kept(text: str) -> Imported:
    """What the text is imported as, with the keys of its author's operation."""
    return import_text(text, FILE, "page", PARAMETERS, keep=OPERATIONAL)


def meaning(text: str) -> dict[str, Any]:
    (recipe,) = read_recipes(text, FILE, "page")
    assert isinstance(recipe, Recipe), recipe.error
    return recipe.model_dump(mode="json")


def with_parameters_at_sources(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the parameters of a slice written at its only source, where they mean the same."""
    for body in (recipe, *(recipe["modules"] or {}).values()):
        for piece in body["slices"] or ():
            if len(piece["sources"]) == 1:
                piece["sources"][0]["parameters"] = piece["parameters"] | piece["sources"][0]["parameters"]
                piece["parameters"] = {}
    return recipe


def block_yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000)


def stripped(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@SLOW
@given(recipes(ambiguous=False))
@example(
    {
        "models": [{"model": "org/a"}],
        "merge_method": "linear",
        "tokenizer": {"tokens": {"<s>": {"force": False}}, "source": "union"},
    }
)
@example(
    {
        "depth_upscale": {"overlap": 2, "model": "org/a"},
        "merge_method": "passthrough",
        "tokenizer": {"tokens": {"no": {"force": True}}, "source": "base", "pad_to_multiple_of": 8},
    }
)
def test_a_recipe_without_its_indentation_is_the_same_recipe(data: dict[str, Any]) -> None:
    text = block_yaml(data)
    found = kept(flat(text))
    assert meaning(found.text) == meaning(text)
    assert stripped(found.text) == stripped(text), "only the indentation changes"


@SLOW
@given(recipes())
@example(
    {
        "slices": [
            {"sources": [{"model": "org/a", "layer_range": [0, 1]}], "parameters": {"weight": "paper"}},
            {"sources": [{"model": "org/a", "layer_range": [0, 1]}]},
        ],
        "merge_method": "linear",
    }
)
@example(
    {
        "prune_layers": {
            "remove": [3, 5],
            "model": {"model": {"path": "inner"}},
            "by": "list",
            "protect": {"first": 1},
        },
        "group": "pruning",
        "merge_method": "passthrough",
        "tags": {"device": "cpu", "dtype": "cpu", "name": "cpu", "group": "cpu"},
    }
)
@example(
    {
        "evaluate": [],
        "tags": {"dtype": "cpu", "group": "cpu", "device": "cpu", "name": "cpu"},
        "modules": {"vision_tower": {"models": [{"model": "inner", "parameters": {"weight": 0.5}}]}},
        "publish": {"repo_id": "me/mine"},
        "group": "pruning",
        "seed": 9,
        "dtype": "bfloat16",
        "device": "cpu",
        "schedule": "0 3 * * *",
        "owners": ["team:merges"],
        "parameters": {"int8_mask": True},
        "chat_template": "auto",
        "tokenizer": {"source": "base", "tokens": {"<s>": {"force": True}}, "pad_to_multiple_of": 8},
        "out_dtype": "float32",
        "name": "given",
        "merge_method": "slerp",
    }
)
def test_a_recipe_in_any_order_is_the_same_or_the_choice_is_said(data: dict[str, Any]) -> None:
    text = block_yaml(data)
    found = kept(flat(text))
    assert stripped(found.text) == stripped(text)
    if with_parameters_at_sources(meaning(found.text)) != with_parameters_at_sources(meaning(text)):
        assert found.choices


@given(recipes(), st.sampled_from([None, False]))
def test_a_sound_recipe_is_not_touched(data: dict[str, Any], flow: bool | None) -> None:
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=flow, allow_unicode=True)
    found = kept(text)
    assert (found.text, found.repairs, found.dropped) == (text, (), ())


@given(recipes(), st.sampled_from([None, False, True]))
def test_only_the_keys_of_the_authors_operation_are_left_out(data: dict[str, Any], flow: bool | None) -> None:
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=flow, allow_unicode=True)
    found = import_text(text, FILE, "page", PARAMETERS)
    own = {key: value for key, value in data.items() if key not in OPERATIONAL}
    assert meaning(found.text) == meaning(block_yaml(own))
    assert set(found.dropped) == data.keys() & OPERATIONAL.keys()


_pieces = st.sampled_from(
    [*sorted(schema_keys()), *SLERP.split(), "- ", ": ", "\n", "\n- ", "```\n", "<pre>", "</pre>", "<td>", "&nbsp;", "“", "”",
     "> ", "[", "]", "{", "}", "|", ">", '"', "'", "&a ", "*a", "---\n", "\t", "\u00a0", "#", "!", "1 ", "\\", "merge_method: "]
)  # fmt: skip


@settings(max_examples=150)
@given(st.lists(_pieces | st.text(max_size=3), max_size=60).map("".join))
@example("merge_method: " + "&" * 5000 + " x")
@example("merge_method: x\n" + "‘ " * 5000)
@example("merge_method: x\n" + "<pre>" * 3000)
@example("merge_method: x\n" + " " * 100_000 + "x")
@example("merge_method: x\n" + "[\n" * 1900)
@example("merge_method: x\nparameters:\n" + "".join(f"p{n}: 1\n" for n in range(1900)) + "- model: x\n")
@example("merge_method: x\nslices:\n" + "- sources:\n- model: a\nbase_model: b\nparameters:\nt: 1\n" * 300 + "zzz: 1\n")
def test_any_text_gives_a_recipe_or_a_message(text: str) -> None:
    began = time.process_time()
    try:
        found = import_text(text, FILE, "page", PARAMETERS)
    except RecipeError as error:
        assert str(error).startswith("page.txt") and len(str(error)) < 2000
    else:
        assert not any(isinstance(entry, BrokenRecipe) for entry in read_recipes(found.text, FILE, "page"))
    assert time.process_time() - began < 10


@pytest.mark.parametrize("key", ["slices", "models", "parameters", "tokenizer", "prune_layers"])
def test_the_shape_follows_the_schema(key: str) -> None:
    assert recipe_shape().keys.keys() == Recipe.model_fields.keys() - HIDDEN_KEYS
    shape = recipe_shape().keys[key]
    assert shape.keys or shape.item or shape.values
