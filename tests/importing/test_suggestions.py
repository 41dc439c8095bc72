"""A page without a config is answered with the recipe that it describes, as far as its words go."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets.errors import NoConfigError, RecipeError
from merge_assets.importing.config import import_text
from merge_assets.importing.suggestions import suggestion
from merge_assets.recipe import Recipe, load_recipe
from tests.importing.test_config import PARAMETERS
from tests.recipe_support import write

IDUS = """# iDUS: interlocked depth up-scaling

We start from mistralai/Mistral-7B-v0.1 with 32 layers and reach 48 layers, in blocks of 8.

| Model | ARC |
|---|---|
| iDUS | 59.3 |
"""
CLUJ = """# Cluj-Napoca-0.2
Layers of Mihaiii/Pallas-0.5 whose self_attn.v_proj has an infinite SNR are removed: 60 -> 44.
"""


def described(text: str, tmp_path: Path) -> tuple[Recipe, tuple[str, ...]]:
    found = suggestion(text, "mine")
    assert found is not None
    return load_recipe(write(tmp_path, found.recipe)), found.open


def test_depth_up_scaling(tmp_path: Path) -> None:
    recipe, missing = described(IDUS, tmp_path)
    template = recipe.depth_upscale
    assert template is not None and missing == ()
    assert (str(template.model), template.overlap, template.block) == ("mistralai/Mistral-7B-v0.1", 8, 8)
    words = "SOLAR's depth up-scaling makes 48 layers of 32. We interlock (iDUS-8layer) org/base."
    recipe, missing = described(words, tmp_path)
    assert recipe.depth_upscale is not None and missing == ()
    assert (recipe.depth_upscale.overlap, recipe.depth_upscale.block) == (8, 8)
    plain, missing = described("DUS of org/base, overlap 4", tmp_path)
    assert plain.depth_upscale is not None and missing == ()
    assert (plain.depth_upscale.overlap, plain.depth_upscale.block) == (4, None)
    _, missing = described("A depth up-scaled, interlocked model.", tmp_path)
    assert missing == ("overlap: 8", "block: 1", "the model")


def test_layers_removed_by_snr(tmp_path: Path) -> None:
    recipe, missing = described(CLUJ, tmp_path)
    template = recipe.prune_layers
    assert template is not None and missing == ()
    assert (str(template.model), template.by, template.tensor) == ("Mihaiii/Pallas-0.5", "snr", "self_attn.v_proj")
    assert template.remove == "infinite"
    recipe, missing = described("By SNR we removed the 8 layers of org/base that were worst", tmp_path)
    assert recipe.prune_layers is not None and recipe.prune_layers.remove == 8
    assert missing == ("tensor: self_attn.v_proj",)


def test_a_table_of_removed_layers_is_their_list(tmp_path: Path) -> None:
    for table in (
        "| Model | Layers removed |\n|---|---|\n| other/x | 1, 2 |\n| mine | 10-12, 20 |\n",
        "| Layer | SNR | status |\n|---|---|---|\n"
        "| model.layers.10.self_attn.v_proj | inf | removed |\n| 11 | inf | pruned |\n| 12 | inf | removed |\n"
        "| 13 | 2.5 | kept |\n| 20 | ∞ | dropped |\n",
        "<table><tr><th>Layer<th>pruned<tr><td>10<td>x<tr><td>11<td>x<tr><td>12<td>x<tr><td>14<td><tr><td>20<td>x</table>",
    ):
        recipe, missing = described(f"# mine\nPruned from org/base.\n\n{table}", tmp_path)
        assert recipe.prune_layers is not None and missing == ()
        assert (recipe.prune_layers.by, recipe.prune_layers.remove) == ("list", (10, 11, 12, 20))


def test_a_table_of_the_order_fills_the_template(tmp_path: Path) -> None:
    """Oracle: the order that the format's specification gives."""
    order = [layer for start in range(0, 6, 2) for copy in (0, 2) for layer in range(start + copy, start + copy + 2)]
    rows = "".join(f"| {new} | {old} |\n" for new, old in enumerate(order))
    page = f"# iDUS of org/base\n\n| New layer | Source layer |\n|---|---|\n{rows}"
    recipe, missing = described(page, tmp_path)
    assert recipe.depth_upscale is not None and missing == ()
    assert (recipe.depth_upscale.overlap, recipe.depth_upscale.block) == (2, 2)
    other = page.replace("| 11 | 7 |", "| 11 | 1 |")
    recipe, _ = described(other, tmp_path)
    assert recipe.slices is not None
    assert [piece.sources[0].layer_range for piece in recipe.slices] == [(0, 4), (2, 6), (4, 7), (1, 2)]


def test_repeated_layers_tell_the_overlap(tmp_path: Path) -> None:
    page = "# DUS of org/base\n\n| Step | Repeated layers |\n|---|---|\n| mine | 6-25 |\n"
    recipe, missing = described(page, tmp_path)
    assert recipe.depth_upscale is not None and (recipe.depth_upscale.overlap, missing) == (6, ())


@pytest.mark.parametrize(
    "table",
    [
        "| Model | Layers removed |\n|---|---|\n| mine | 16 |\n",
        "| Model | Number of layers removed |\n|---|---|\n| mine | 16, 17 |\n",
        "| Model | Layers |\n|---|---|\n| mine | 44 |\n",
        "| Layer removed |\n|---|\n| 9-3 |\n",
        "| Layer removed |\n|---|\n| 0-999999999 |\n",
        "| Model | Layers removed |\n|---|---|\n| other/x | 1, 2 |\n",
    ],
)
def test_a_number_that_may_count_layers_is_none_of_a_layer(table: str) -> None:
    assert suggestion(f"# mine\nMade of org/base.\n\n{table}", "mine") is None


def test_infinite_ratios_of_a_table_go_with_the_recipe(tmp_path: Path) -> None:
    page = f"{CLUJ}\n| layer | SNR |\n|---|---|\n| 7 | 3.2 |\n| 8 | inf |\n| 9 | ∞ |\n"
    recipe, _ = described(page, tmp_path)
    assert recipe.prune_layers is not None and recipe.prune_layers.remove == "infinite"
    assert "the table at line 4 has layers of infinite SNR: 8–9" in recipe.source.text


def test_a_page_of_ranges_is_answered_with_the_import_by_name() -> None:
    text = "# Gille/StrangeMerges_34-7B-slerp\nA slerp of a and b: self_attn t between 0 and 0.7.\n"
    found = suggestion(text, "StrangeMerges_34-7B-slerp")
    assert found is not None and found.command == "merge-assets import Gille/StrangeMerges_34-7B-slerp"


def test_the_import_says_it() -> None:
    with pytest.raises(NoConfigError) as caught:
        import_text(IDUS, Path("page.md"), "mine", PARAMETERS)
    assert "no merge config was found; the page describes depth up-scaling, as this recipe does:" in str(caught.value)
    assert "depth_upscale: {model: mistralai/Mistral-7B-v0.1, overlap: 8, block: 8}" in str(caught.value)
    with pytest.raises(RecipeError, match="copy the config alone"):
        import_text("# A model\nIt was trained on org/data.\n", Path("page.md"), "mine", PARAMETERS)
