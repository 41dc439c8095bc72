"""Contract: the recipes and the recipe page of this repository are right.

The layer orders of the published variants are written out by hand from what their authors published.
"""

import re

import pytest

from merge_assets.recipe import RecipeBook, expand_depth_upscale, load_recipe, resolve
from merge_assets.recipe.problems import HIDDEN_KEYS
from merge_assets.recipe.schema import Recipe
from merge_assets.reference import ModelReference
from tests.recipe_page import PAGE, described_keys, render
from tests.recipe_support import ROOT, write

RECIPES = ROOT / "recipes"
DEMO = {"base", "scripture", "manual"}


def layer_map(recipe: Recipe) -> list[tuple[int, int]]:
    return [source.layer_range for part in recipe.slices for source in part.sources]


def test_all_recipes_of_the_project_load():
    book = RecipeBook.load([RECIPES])
    assert [str(entry.error) for entry in book.broken] == []
    assert {recipe.source.file.parent.name for recipe in book.recipes.values()} == {"demo", "hub"}
    assert all(recipe.description and recipe.group and recipe.tags for recipe in book.recipes.values())


def test_demo_recipes_need_nothing_but_the_demo_checkpoints():
    book = RecipeBook.load([RECIPES / "demo"])
    assert len(book.recipes) == 10 + len(book.sweeps["slerp"]) and "best-mix" in book.searches
    for recipe in book.recipes.values():
        assert [entry.suite for entry in recipe.evaluate or ()] == ["demo"]
        for reference in recipe.references():
            if book.resolve(reference) is None:
                folder = ROOT / reference.path
                assert folder.name in DEMO and (folder / "config.json").is_file(), reference
    assert book.parents("merge-of-merges") == ["slerp-gradient", "ties"]


def test_hub_recipes_name_hub_repositories_and_each_other_only():
    names = RecipeBook.load([RECIPES / "hub"]).recipes
    for recipe in names.values():
        assert all(ref.looks_like_hub_id or str(ref) in names for ref in recipe.references())
        assert [entry.suite for entry in recipe.evaluate or ()] == ["open-llm-leaderboard-v1"]


def test_fimbulvetr_enhanced_scales_two_projections_in_twelve_slices():
    recipe = load_recipe(RECIPES / "hub" / "fimbulvetr-11b-enhanced.yaml")
    assert layer_map(recipe) == [(start, min(start + 4, 47)) for start in range(0, 48, 4)]
    assert recipe.slices[0].sources[0].parameters == {}
    factors = [1.5, 1.5, 2.0, 2.0, 2.5, 2.5, 3.0, 3.0, 3.5, 3.5, 4.0]
    for part, factor in zip(recipe.slices[1:], factors, strict=True):
        scale = part.sources[0].parameters["scale"]
        assert resolve(scale, "model.layers.9.self_attn.o_proj.weight", 0) == factor
        assert resolve(scale, "model.layers.9.mlp.down_proj.weight", 0) == factor
        assert resolve(scale, "model.layers.9.mlp.up_proj.weight", 0) is None


def test_the_demo_has_the_same_pattern_on_fifteen_of_sixteen_layers():
    recipe = load_recipe(RECIPES / "demo" / "scaled-passthrough.yaml")
    ranges = layer_map(recipe)
    assert len(ranges) == 12
    assert [layer for start, end in ranges for layer in range(start, end)] == list(range(15))
    assert all("scale" in part.sources[0].parameters for part in recipe.slices[1:])


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("hub/solar-10.7b-dus", 32, [*range(24), *range(8, 32)]),
        (
            "hub/solar-10.7b-idus-8layer",
            32,
            [*range(8), *range(8, 16), *range(8, 16), *range(16, 24), *range(16, 24), *range(24, 32)],
        ),
        ("hub/solar-10.7b-idus-1layer", 32, [layer for i in range(24) for layer in (i, i + 8)]),
        ("demo/dus", 16, [*range(12), *range(4, 16)]),
        (
            "demo/idus-4layer",
            16,
            [*range(4), *range(4, 8), *range(4, 8), *range(8, 12), *range(8, 12), *range(12, 16)],
        ),
        ("demo/idus-1layer", 16, [layer for i in range(12) for layer in (i, i + 4)]),
    ],
)
def test_depth_upscaled_layer_orders(name, layers, expected):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    ranges = [part.sources[0].layer_range for part in expand_depth_upscale(recipe.depth_upscale, layers)]
    assert [layer for start, end in ranges for layer in range(start, end)] == expected


def test_pruned_recipes_read_the_value_projection():
    for name in ("hub/cluj-napoca-0.2", "demo/pruned"):
        template = load_recipe(RECIPES / f"{name}.yaml").prune_layers
        assert (template.by, template.tensor, template.remove) == ("snr", "self_attn.v_proj", "infinite")


def test_strange_merges_has_the_published_ranges():
    recipe = load_recipe(RECIPES / "hub" / "strange-merges-34-7b-slerp.yaml")
    attention, mlp, rest = recipe.parameters["t"]
    assert (min(attention.value), max(attention.value)) == (0, 0.7)
    assert (min(mlp.value), max(mlp.value)) == (0, 1)
    assert rest.value == 0.5 and recipe.dtype == "bfloat16"
    assert recipe.base_model == ModelReference("ContextualAI/Contextual_KTO_Mistral_PairRM")


# -- the recipe page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / PAGE).read_text("utf-8")


def test_the_recipe_page_is_current(page):
    assert render(page) == page, "run python -m tests.recipe_page"


def test_the_recipe_page_has_every_key_of_the_schema(page):
    """Oracle: pydantic's own JSON schema, with every model that it defines."""
    schema = Recipe.model_json_schema()
    expected = {("Recipe", key) for key in schema["properties"]} - {("Recipe", key) for key in HIDDEN_KEYS}
    for name, part in schema["$defs"].items():
        if name not in ("RecipeSource", "Swept", "FoundBy", "FoundTrial", "TrialBeside"):
            expected |= {(name, key) for key in part["properties"]}
    assert expected <= described_keys(page)


def test_links_of_the_recipe_page_lead_to_its_headings(page):
    headings = {
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^#+ (.+)$", page, re.M)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert links and links <= headings


def test_examples_of_the_recipe_page_are_recipes(page, tmp_path):
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", page, re.M | re.S)
    assert len(blocks) >= 5
    for number, (_, text) in enumerate(blocks):
        write(tmp_path, text, f"example{number}.yaml")
    book = RecipeBook.load([tmp_path])
    recipes = sum(1 + text.count("\n---\n") for _, text in blocks)
    found = {recipe.swept.sweep if recipe.swept else name for name, recipe in book.recipes.items()} | {*book.searches}
    assert [str(entry.error) for entry in book.broken] == [] and len(found) == recipes
