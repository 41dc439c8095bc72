"""A peak in the middle is seen, and layers in a row are a range."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets.errors import RecipeError
from merge_assets.plan import check_alone
from merge_assets.plan.compatibility import unlike_sizes
from merge_assets.plan.gradients import along_the_depth, ranges
from merge_assets.recipe import load_recipe
from merge_assets.recipe.parameters import gradient
from tests.recipe_support import write


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5, 0.5], "0.5"),
        ([0.0, 0.25, 0.7], "0…0.7"),
        ([1, 1, 0.5, 0], "1…0"),
        ([0, 0.5, 0.5, 0], "0, 0.5, 0"),
        ([0, 1, 0, 1, 0.5], "▁█▁█▅ 0 to 1"),
    ],
)
def test_values_along_the_depth(values: list[float], text: str) -> None:
    assert along_the_depth(values) == text


def test_a_gradient_of_many_layers_is_drawn_with_its_peak() -> None:
    values = [gradient([0, 0, 1, 0, 0], layer / 79) for layer in range(80)]
    text = along_the_depth(values)
    bars, _, words = text.partition(" ")
    assert len(bars) == 16 and bars[0] == bars[-1] == "▁" and "█" in bars[6:10]
    assert words.startswith("0 to 0.9")


def test_layers_in_a_row_are_a_range() -> None:
    assert ranges([5, 3, 4, 8]) == "3–5, 8"
    assert ranges([1]) == "1"


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    text = """
    merge_method: ties
    base_model: org/base
    models:
      - {model: org/base, parameters: {weight: 1, density: 1}}
      - {model: org/a, parameters: {weight: 1}}
      - {model: org/a, parameters: {weight: 1}}
    """
    _, warnings = check_alone(load_recipe(write(tmp_path, text)))
    assert warnings == [
        "models[0].parameters: weight and density of org/base has no effect, since it is the base model",
        "models[2].model: org/a is listed twice, and counts twice",
    ]


def test_a_config_of_experts_is_called_so(tmp_path: Path) -> None:
    text = "base_model: org/a\nmerge_method: linear\ngate_mode: hidden\nmodels: [{model: org/a}]\n"
    with pytest.raises(RecipeError, match="is a key of mergekit-moe, which builds a mixture of experts"):
        load_recipe(write(tmp_path, text))


def test_shapes_that_differ_are_told_by_the_sizes_of_the_configs() -> None:
    narrow: dict[str, object] = {"hidden_size": 16, "head_dim": 8}
    wide: dict[str, object] = {"text_config": {"hidden_size": 32, "head_dim": 8}}
    assert unlike_sizes([wide, narrow]) == "hidden_size 32 and 16"
    assert unlike_sizes([wide, wide]) == unlike_sizes([]) == ""
