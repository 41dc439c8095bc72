"""Contract: what a correct recipe means once read. Wrong ones are in test_recipe_malformed.py."""

from pathlib import Path

import pytest

from merge_assets.errors import RecipeError
from merge_assets.recipe import Conditional, Lowest, Protect, load_recipe, load_recipes, lookup
from merge_assets.reference import ModelReference
from tests.recipe_support import MINIMAL, read, write


def ref(text: str) -> ModelReference:
    return ModelReference.parse(text)


def test_a_minimal_recipe_has_the_documented_defaults(tmp_path):
    recipe = read(tmp_path, MINIMAL, "my-merge.yaml")
    assert recipe.name == "my-merge"
    assert (recipe.description, recipe.group, recipe.tags, recipe.owners) == ("", None, {}, ())
    assert (recipe.seed, recipe.evaluate, recipe.device) == (0, None, "auto")
    assert (recipe.materialize, recipe.allow_nonfinite) == (True, False)
    assert (recipe.publish, recipe.schedule, recipe.dtype, recipe.base_model) == (None, None, None, None)
    assert [entry.parameters for entry in recipe.models] == [{"weight": 1}, {"weight": 2}]


def test_every_extension_key(tmp_path):
    recipe = read(
        tmp_path,
        MINIMAL
        + """
    name: cluj-napoca-0.2
    description: one line
    group: pruning/yi_34b
    tags: {family: yi-34b}
    owners: ["team:merges", a.b@example.org]
    seed: 7
    evaluate: [open-llm-leaderboard-v1]
    publish: {repo_id: me/my-model}
    schedule: "*/15 3-5 1,15 jan-mar sun"
    device: cuda
    allow_nonfinite: true
    """,
    )
    assert recipe.name == "cluj-napoca-0.2"
    assert recipe.owners == ("team:merges", "a.b@example.org")
    assert [entry.suite for entry in recipe.evaluate or ()] == ["open-llm-leaderboard-v1"]
    assert recipe.publish.private is True
    assert (recipe.seed, recipe.device, recipe.allow_nonfinite) == (7, "cuda", True)


def test_a_recipe_that_is_not_stored_may_say_that_it_is_not_evaluated(tmp_path):
    recipe = read(tmp_path, MINIMAL + "    materialize: false\n    evaluate: []\n")
    assert recipe.materialize is False


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("org/name@v1+org/lora@v2", "org/name@v1+org/lora@v2"),
        ("{model: {path: org/name, revision: v1}}", "org/name@v1"),
        ("{model: {path: ./local}, lora: {path: org/lora, revision: v2}}", "./local+org/lora@v2"),
        ("{model: org/name@v1, lora: org/lora, override_architecture: LlamaForCausalLM}", "org/name@v1+org/lora"),
        ("{model: s3://bucket/model, lora: null}", "s3://bucket/model"),
    ],
)
def test_a_model_may_be_a_string_or_a_mapping(tmp_path, form, expected):
    recipe = read(tmp_path, f"{{merge_method: passthrough, models: [{{model: {form}}}]}}")
    assert recipe.models[0].model == ref(expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("torch.bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float32"), ("torch.float64", "float64")],
)
def test_dtypes(tmp_path, written, expected):
    recipe = read(tmp_path, MINIMAL + f"    dtype: {written}\n    out_dtype: {written}\n")
    assert (recipe.dtype, recipe.out_dtype) == (expected, expected)


def test_anchors_merge_keys_and_free_keys(tmp_path):
    recipe = read(
        tmp_path,
        """
        const_tag: &factor 0.25
        const_tag: &other 0.75
        x-common: &common
          layer_range: [0, 4]
          parameters: {weight: *factor}
        slices:
          - sources:
              - {model: a, <<: *common}
              - {model: b, <<: *common, parameters: {weight: *other}}
        merge_method: linear
        """,
    )
    first, second = recipe.slices[0].sources
    assert (first.layer_range, second.layer_range) == ((0, 4), (0, 4))
    assert (first.parameters, second.parameters) == ({"weight": 0.25}, {"weight": 0.75})


def test_parameters_keep_their_order_and_a_single_condition_is_a_list_of_one(tmp_path):
    recipe = read(
        tmp_path,
        MINIMAL
        + """
    parameters:
      normalize: true
      t: {value: [0, 1], filter: mlp}
      u: [{filter: a, value: 1}, {value: 2}]
    """,
    )
    assert recipe.parameters["normalize"] is True
    assert recipe.parameters["t"] == (Conditional(value=(0, 1), filter="mlp"),)
    assert [entry.filter for entry in recipe.parameters["u"]] == ["a", None]


def test_a_tensor_takes_its_value_from_the_innermost_scope(tmp_path):
    recipe = read(
        tmp_path,
        """
        merge_method: slerp
        base_model: a
        parameters: {t: 0.5}
        slices:
          - sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]
            parameters: {t: {filter: self_attn, value: [0, 1]}}
        """,
    )
    scopes = [recipe.slices[0].parameters, recipe.parameters]
    assert lookup("t", "model.layers.1.self_attn.q_proj.weight", 0.5, scopes) == 0.5
    assert lookup("t", "model.layers.2.self_attn.q_proj.weight", 1.0, scopes) == 1.0
    assert lookup("t", "model.layers.2.mlp.up_proj.weight", 1.0, scopes) == 0.5


def test_the_same_model_may_stand_twice_in_one_slice(tmp_path):
    recipe = read(
        tmp_path,
        """
        merge_method: linear
        slices:
          - sources: [{model: a, layer_range: [2, 3]}, {model: a, layer_range: [5, 6]}]
        """,
    )
    assert [source.layer_range for source in recipe.slices[0].sources] == [(2, 3), (5, 6)]
    assert recipe.references() == (ref("a"),)


def test_modules_hold_slices_or_models(tmp_path):
    recipe = read(
        tmp_path,
        """
        merge_method: linear
        modules:
          text: {models: [{model: a}, {model: b}], parameters: {weight: 1}}
          vision: {slices: [{sources: [{model: c, layer_range: [0, 2]}], base_model: d}]}
        """,
    )
    assert list(recipe.modules) == ["text", "vision"]
    assert recipe.references() == (ref("a"), ref("b"), ref("c"), ref("d")) or recipe.references() == (
        ref("a"),
        ref("b"),
        ref("d"),
        ref("c"),
    )


def test_tokenizer_settings(tmp_path):
    recipe = read(
        tmp_path,
        MINIMAL
        + """
    tokenizer:
      source: union
      pad_to_multiple_of: 64
      tokens:
        <s>: {source: org/a}
        <pad>: {source: {kind: zero}, force: true}
        <|x|>: {source: {kind: model_token, model: org/c, token_id: 3}}
        <|y|>: {source: {kind: model_token, model: org/c, token: "</s>"}}
    """,
    )
    tokens = recipe.tokenizer.tokens
    assert tokens["<s>"].source == ref("org/a")
    assert (tokens["<pad>"].source.kind, tokens["<pad>"].force) == ("zero", True)
    assert (tokens["<|x|>"].source.model, tokens["<|x|>"].source.token_id) == (ref("org/c"), 3)


def test_references_name_every_model_once_base_first(tmp_path):
    recipe = read(
        tmp_path,
        """
        merge_method: ties
        base_model: base@v1
        tokenizer_source: elsewhere
        models: [{model: b}, {model: a+adapter}, {model: b}]
        """,
    )
    assert list(map(str, recipe.references())) == ["base@v1", "b", "a+adapter", "elsewhere"]
    assert list(dict(recipe.mentions())) == [
        "base_model",
        "models[0].model",
        "models[1].model",
        "models[2].model",
        "tokenizer_source",
    ]


@pytest.mark.parametrize(
    "body", ["depth_upscale: {model: m, overlap: 8}", "prune_layers: {model: m, by: list, remove: [1]}"]
)
def test_references_include_the_models_of_templates(tmp_path, body):
    assert read(tmp_path, f"merge_method: passthrough\n{body}\n").references() == (ref("m"),)


@pytest.mark.parametrize(
    ("written", "remove"),
    [
        ("by: snr, tensor: self_attn.v_proj, remove: infinite, at_most: 16", "infinite"),
        ("by: margin, tensor: v_proj, remove: {lowest: 8}", Lowest(lowest=8)),
        ("by: block_influence, text: words.txt, remove: 8", 8),
        ("by: reverse_order, remove: 2", 2),
        ("by: list, remove: [4, 2]", (4, 2)),
    ],
)
def test_prune_layers_forms(tmp_path, written, remove):
    text = f"{{merge_method: passthrough, prune_layers: {{model: m, {written}, protect: {{first: 2}}}}}}"
    template = read(tmp_path, text).prune_layers
    assert template.remove == remove and type(template.remove) is type(remove)
    assert template.protect == Protect(first=2, last=0)


# -- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        "name: other",
        "description: words",
        "group: g",
        "tags: {a: b}",
        "owners: ['team:x']",
        "evaluate: []",
        "schedule: '0 3 * * *'",
        "publish: {repo_id: a/b}",
        "device: cpu",
        "materialize: false",
        "allow_nonfinite: false",
        "trust_remote_code: [org/a]",
        "published: [{source: s, values: {a: 1}}]",
        "seed: 0",
        "x-note: {free: [1, 2]}",
        "parameters: {}",
        "# a comment",
    ],
)
def test_the_digest_ignores_what_does_not_change_bytes(tmp_path, extra):
    plain = read(tmp_path, MINIMAL, "one.yaml")
    changed = read(tmp_path, MINIMAL + f"    {extra}\n", "two.yaml")
    assert plain.digest == changed.digest


@pytest.mark.parametrize(
    "extra",
    [
        "seed: 1",
        "dtype: float32",
        "out_dtype: float32",
        "base_model: org/a",
        "parameters: {normalize: false}",
        "tokenizer_source: union",
        "chat_template: auto",
        "allow_nonfinite: true",
    ],
)
def test_the_digest_covers_what_changes_bytes_or_whether_they_are_accepted(tmp_path, extra):
    plain = read(tmp_path, MINIMAL, "one.yaml")
    changed = read(tmp_path, MINIMAL + f"    {extra}\n", "two.yaml")
    assert plain.digest != changed.digest


def test_the_digest_is_of_the_meaning_not_the_spelling(tmp_path):
    one = read(
        tmp_path, "{models: [{model: a, parameters: {weight: 1, density: 0.5}}], merge_method: linear, dtype: float32}"
    )
    two = read(
        tmp_path,
        """
        x-d: &d torch.float32
        merge_method: linear
        dtype: *d
        models:
          - parameters: {density: 5e-1, weight: 1.0}
            model: {model: {path: a}}
        """,
    )
    assert one.digest == two.digest


def test_the_order_of_models_counts(tmp_path):
    one = read(tmp_path, "{models: [{model: a}, {model: b}], merge_method: linear}")
    two = read(tmp_path, "{models: [{model: b}, {model: a}], merge_method: linear}")
    assert one.digest != two.digest


def test_the_digest_of_a_known_recipe_stays(tmp_path):
    """Stored variants are found by it: a change of this value rebuilds everything that everyone has."""
    assert read(tmp_path, MINIMAL).digest == "aba091e9387c8f39b3186f4067eab421357ff530c9bb13fc76b7f54d62e0fa1b"


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_may_hold_several_recipes(tmp_path):
    file = write(
        tmp_path,
        """
        # the first
        name: one
        merge_method: linear
        models: [{model: a}]
        ---
        name: two
        merge_method: linear
        models: [{model: one}]
        """,
    )
    one, two = load_recipes(file)
    assert (one.name, one.source.document, one.source.line) == ("one", 0, 3)
    assert (two.name, two.source.document, two.source.line) == ("two", 1, 7)
    assert "# the first" in one.source.text and "name: two" not in one.source.text
    assert load_recipe(file, "two") == two
    with pytest.raises(RecipeError, match=r"recipe.yaml: holds 2 recipes \(one, two\); say which one"):
        load_recipe(file)
    with pytest.raises(RecipeError, match="has no recipe 'three', only one, two"):
        load_recipe(file, "three")


def test_a_key_path_is_found_in_the_file(tmp_path):
    recipe = read(
        tmp_path, "# comment\nmerge_method: linear\nmodels:\n  - model: a\n  - model: b\n    parameters: {t: 1}\n"
    )
    file = tmp_path / "recipe.yaml"
    assert recipe.source.at("models[1].parameters.t") == f"{file}:6"
    assert recipe.source.at("models[1].parameters.u") == f"{file}:6"
    assert recipe.source.at("models[7].model") == f"{file}:3"
    assert recipe.source.at("") == f"{file}:2"
    assert recipe.source.at("nothing") == f"{file}:2"
    file.write_text("# other\n\n\nmerge_method: linear\n")
    assert recipe.source.at("models[1]") == f"{file}:5", "the line in the file as it was read"
    file.unlink()
    assert recipe.source.at("models[1]") == f"{file}:5"


def test_recipes_cannot_be_changed(tmp_path):
    recipe = read(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_the_source_names_the_file_as_it_was_given(tmp_path, monkeypatch):
    write(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe.yaml").source.file == Path("recipe.yaml")
