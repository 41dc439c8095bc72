"""Contract: the resolved recipe is plain mergekit YAML that means the same.

mergekit's schema is written here as its documentation has it; the round trip goes through ``yaml.safe_load``.
"""

import pytest
import yaml

from merge_assets.recipe import expand_depth_upscale, load_recipe, load_recipes, to_mergekit, with_stages
from tests.recipe_support import MINIMAL, ROOT, read, write

MERGEKIT_KEYS = {
    "merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template", "parameters",
}  # fmt: skip


def test_extension_keys_and_anchors_are_gone(tmp_path):
    recipe = read(
        tmp_path,
        MINIMAL
        + """
    name: n
    description: d
    group: g
    tags: {a: b}
    owners: [team:x]
    seed: 3
    evaluate: [demo]
    schedule: 0 3 * * *
    device: cpu
    publish: {repo_id: a/b}
    x-free: 1
    dtype: torch.float32
    parameters: {t: {value: [0, 1], filter: mlp}, normalize: false}
    """,
    )
    assert yaml.safe_load(to_mergekit(recipe)) == {
        "merge_method": "linear",
        "models": [{"model": "org/a", "parameters": {"weight": 1}}, {"model": "org/b", "parameters": {"weight": 2}}],
        "dtype": "float32",
        "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}], "normalize": False},
    }


def test_templates_are_written_as_slices(tmp_path):
    recipe = read(
        tmp_path, "merge_method: passthrough\ndepth_upscale: {model: org/m@v1, overlap: 8}\ndtype: bfloat16\n"
    )
    text = to_mergekit(recipe, expand_depth_upscale(recipe.depth_upscale, 32))
    assert yaml.safe_load(text) == {
        "slices": [
            {"sources": [{"model": "org/m@v1", "layer_range": [0, 24]}]},
            {"sources": [{"model": "org/m@v1", "layer_range": [8, 32]}]},
        ],
        "merge_method": "passthrough",
        "dtype": "bfloat16",
    }
    assert "layer_range: [0, 24]" in text
    with pytest.raises(ValueError, match="expanded"):
        to_mergekit(recipe)


def test_a_source_without_a_range_must_be_resolved_first(tmp_path):
    recipe = read(tmp_path, "merge_method: passthrough\nslices: [{sources: [{model: m}]}]\n")
    with pytest.raises(ValueError, match="layer_range"):
        to_mergekit(recipe)


def test_tokenizer_settings_survive(tmp_path):
    tokenizer = {
        "source": "org/a",
        "tokens": {
            "<a>": {"source": {"kind": "zero"}, "force": True},
            "<b>": {"source": {"kind": "model_token", "model": "org/b", "token_id": 0}},
            "<c>": {"source": "org/c"},
        },
        "pad_to_multiple_of": 8,
    }
    recipe = read(tmp_path, MINIMAL + f"    tokenizer: {tokenizer}\n    chat_template: auto\n")
    written = yaml.safe_load(to_mergekit(recipe))
    assert written["tokenizer"] == tokenizer and written["chat_template"] == "auto"


PLAIN = [
    file
    for file in sorted((ROOT / "recipes").rglob("*.yaml"))
    if not {"depth_upscale", "prune_layers", "architecture", "sweep", "search"}
    & set(yaml.safe_load(file.read_text("utf-8")))
]


@pytest.mark.parametrize("file", PLAIN, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_recipe_of_the_project_without_a_template_reads_back_the_same(tmp_path, file):
    recipe = load_recipe(file)
    text = to_mergekit(recipe)
    assert set(yaml.safe_load(text)) <= MERGEKIT_KEYS
    assert load_recipe(write(tmp_path, text, "again.yaml")).digest == recipe.digest


def test_a_class_that_mergekit_cannot_name_is_a_comment(tmp_path):
    recipe = load_recipe(ROOT / "recipes" / "hub" / "llama2-init-mistral.yaml")
    text = to_mergekit(recipe)
    assert text.startswith("# mergekit cannot say that this is loaded as LlamaForCausalLM: ")
    assert load_recipe(write(tmp_path, text, "again.yaml")).digest != recipe.digest
    assert set(yaml.safe_load(text)) == {"models", "merge_method", "dtype"}


def test_stages_are_documents_of_one_file_each_once(tmp_path):
    """The file reads back as recipes of the same meaning that refer to each other by name."""
    texts = {
        "123": '{merge_method: linear, models: [{model: org/a, parameters: {weight: 1}}], chat_template: "x\\n---\\ny"}',
        "middle": "{merge_method: passthrough, models: [{model: '123'}]}",
        "outer": "{merge_method: linear, models: [{model: middle}, {model: '123'}], parameters: {weight: 1}}",
    }
    written = {name: to_mergekit(read(tmp_path, text, f"{name}.yaml")) for name, text in texts.items()}
    inner = with_stages(written["123"], "123", [])
    middle = with_stages(written["middle"], "middle", [inner])
    whole = with_stages(written["outer"], "outer", [middle, inner])
    again = load_recipes(write(tmp_path, whole, "again.yaml"))
    assert [recipe.name for recipe in again] == ["123", "middle", "outer"]
    assert [recipe.digest for recipe in again] == [load_recipe(tmp_path / f"{name}.yaml").digest for name in texts]
