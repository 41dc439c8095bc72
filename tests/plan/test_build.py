"""A plan accounts for every tensor, resolves every parameter, and says what is wrong before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merge_assets.errors import PlanError, RecipeError
from merge_assets.plan import Plan
from merge_assets.plan.describe import dropped_tensors, source_layers
from merge_assets.plan.difference import difference
from tests.merging import merged_tensors, plan_text
from tests.synthetic import llama_config, llama_shapes, read_tensors, write_checkpoint, write_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "a": write_llama(root / "a", 4, seed=1, shards=2),
        "b": write_llama(root / "b", 4, seed=2),
        "deep": write_llama(root / "deep", 6, seed=3),
        "tied": write_llama(root / "tied", 4, seed=4, tied=True),
        "other": _with_other_tokenizer(write_llama(root / "other", 4, seed=6)),
        "wordy": write_llama(root / "wordy", 4, seed=5, vocabulary=40),
    }


def _with_other_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    return folder


def test_a_union_of_equal_tokenizers_is_that_tokenizer(models: dict[str, Path], tmp_path: Path) -> None:
    body = f"merge_method: linear\nmodels: [{{model: {models['a']}}}, {{model: {models['b']}}}]\nparameters: {{weight: 1}}\n"
    plan = plan_text(f"{body}tokenizer_source: union\n", tmp_path)
    assert [(c.model, c.file) for c in plan.carried] == [(0, "tokenizer.json")]


def test_the_tokenizer_of_a_named_model_is_carried(models: dict[str, Path], tmp_path: Path) -> None:
    body = f"merge_method: linear\nmodels: [{{model: {models['a']}}}, {{model: {models['b']}}}]\nparameters: {{weight: 1}}\n"
    plan = plan_text(f"{body}tokenizer_source: {models['b']}\n", tmp_path)
    assert [plan.models[c.model].reference for c in plan.carried] == [str(models["b"])]


def of(plan: Plan, name: str) -> dict[str, object]:
    tensor = next(t for t in plan.tensors if t.name == name)
    return {**tensor.parameters, "inputs": [dict(i.parameters) for i in tensor.inputs]}


def test_every_input_tensor_is_used_or_listed_as_dropped(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: passthrough
slices:
  - sources: [{{model: {models["a"]}, layer_range: [0, 3]}}]
  - sources: [{{model: {models["deep"]}, layer_range: [4, 6]}}]
"""
    plan = plan_text(text, tmp_path)
    used = {(i.model, i.header.name) for t in plan.tensors for i in t.inputs}
    dropped = {(d.model, d.tensor) for d in plan.dropped}
    everything = {(0, n) for n in llama_shapes(4)} | {(1, n) for n in llama_shapes(6)}
    assert used | dropped == everything
    assert not used & dropped
    assert {n for m, n in used if ".layers." not in n and m == 0} == {"model.embed_tokens.weight"}
    assert {n for m, n in used if ".layers." not in n and m == 1} == {"model.norm.weight", "lm_head.weight"}
    assert source_layers(plan) == [(0,), (1,), (2,), (4,), (5,)]
    said = dropped_tensors(plan)
    assert f"36 tensors of {models['deep']}: layers 0–3 in no slice" in said
    assert sum(int(sentence.split()[0]) for sentence in said) == len(plan.dropped)
    assert plan.config["num_hidden_layers"] == 5


def test_all_sources_of_the_last_slice_take_part_in_norm_and_head(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: linear
parameters: {{weight: 1}}
slices:
  - sources: [{{model: {models["a"]}, layer_range: [0, 2]}}]
  - sources:
      - {{model: {models["a"]}, layer_range: [2, 4]}}
      - {{model: {models["b"]}, layer_range: [2, 4]}}
"""
    plan = plan_text(text, tmp_path)
    inputs = {t.name: len(t.inputs) for t in plan.tensors}
    assert inputs["model.embed_tokens.weight"] == 1
    assert inputs["model.norm.weight"] == inputs["lm_head.weight"] == 2


def test_one_model_twice_in_a_slice_is_two_sources(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: linear
slices:
  - sources:
      - {{model: {models["a"]}, layer_range: [0, 2], parameters: {{weight: 0.25}}}}
      - {{model: {models["a"]}, layer_range: [2, 4], parameters: {{weight: 0.75}}}}
dtype: float32
"""
    result, source = merged_tensors(text, tmp_path), read_tensors(models["a"])
    name = "model.layers.{}.mlp.up_proj.weight"
    for layer in (0, 1):
        expected = 0.25 * source[name.format(layer)].float() + 0.75 * source[name.format(layer + 2)].float()
        torch.testing.assert_close(result[name.format(layer)], expected)
    torch.testing.assert_close(result["model.norm.weight"], source["model.norm.weight"].float())


def test_parameters_come_from_the_nearest_scope_that_has_a_match(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: linear
parameters: {{weight: 9, normalize: false}}
slices:
  - sources:
      - model: {models["a"]}
        layer_range: [0, 2]
        parameters: {{weight: [{{filter: self_attn, value: 1}}]}}
      - {{model: {models["b"]}, layer_range: [0, 2]}}
    parameters: {{weight: [{{filter: mlp, value: 2}}], normalize: true}}
  - sources:
      - {{model: {models["a"]}, layer_range: [2, 4]}}
      - {{model: {models["b"]}, layer_range: [2, 4]}}
"""
    plan = plan_text(text, tmp_path)
    own = {"inputs": [{"weight": 1.0}, {"weight": 9.0}], "normalize": True}
    assert of(plan, "model.layers.0.self_attn.q_proj.weight") == own
    assert of(plan, "model.layers.1.mlp.up_proj.weight") == {
        "inputs": [{"weight": 2.0}, {"weight": 2.0}],
        "normalize": True,
    }
    assert of(plan, "model.layers.0.input_layernorm.weight")["inputs"] == [{"weight": 9.0}, {"weight": 9.0}]
    assert of(plan, "model.layers.2.self_attn.q_proj.weight")["normalize"] is False


def test_gradients_run_over_their_slice_and_start_outside_the_layers(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: slerp
base_model: {models["a"]}
models: [{{model: {models["a"]}}}, {{model: {models["b"]}}}]
parameters: {{t: [0.1, 0.2, 0.6]}}
"""
    plan = plan_text(text, tmp_path)
    found = [of(plan, f"model.layers.{layer}.mlp.up_proj.weight")["t"] for layer in range(4)]
    assert found == pytest.approx([0.1, 0.1 + 0.1 * 2 / 3, 0.2 + 0.4 / 3, 0.6])
    assert of(plan, "lm_head.weight")["t"] == of(plan, "model.embed_tokens.weight")["t"] == pytest.approx(0.1)


def test_a_gradient_over_one_layer_takes_its_end(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: slerp
base_model: {models["a"]}
slices: [{{sources: [{{model: {models["a"]}, layer_range: [1, 2]}}, {{model: {models["b"]}, layer_range: [1, 2]}}]}}]
parameters: {{t: [0.1, 0.9]}}
"""
    assert of(plan_text(text, tmp_path), "model.layers.0.mlp.up_proj.weight")["t"] == pytest.approx(0.9)


def test_a_base_that_is_not_listed_joins_methods_that_have_one(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"merge_method: ties\nbase_model: {models['a']}\nmodels: [{{model: {models['b']}}}]\nparameters: {{weight: 1}}\n"
    plan = plan_text(text, tmp_path)
    assert all(t.base == 0 and len(t.inputs) == 2 and not t.inputs[0].parameters for t in plan.tensors)


def test_a_base_of_a_method_without_one_only_donates(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"merge_method: linear\nbase_model: {models['a']}\nmodels: [{{model: {models['b']}}}]\nparameters: {{weight: 1}}\n"
    plan = plan_text(text, tmp_path)
    assert plan.models[plan.donor].reference == str(models["a"])
    assert all(len(t.inputs) == 1 for t in plan.tensors)
    assert {d.reason for d in plan.dropped} == {"donates only config and tokenizer"}


def test_the_first_listed_model_donates_without_a_base(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"merge_method: linear\nmodels: [{{model: {models['b']}}}, {{model: {models['a']}}}]\nparameters: {{weight: 1}}\n"
    plan = plan_text(text, tmp_path)
    assert plan.models[plan.donor].reference == str(models["b"])


@pytest.mark.parametrize("first", ["a", "tied"])
def test_a_head_that_one_input_ties_is_stored(first: str, models: dict[str, Path], tmp_path: Path) -> None:
    other = "tied" if first == "a" else "a"
    text = f"""
merge_method: linear
models: [{{model: {models[first]}}}, {{model: {models[other]}}}]
parameters: {{weight: 1}}
dtype: float32
"""
    plan = plan_text(text, tmp_path)
    assert plan.config["tie_word_embeddings"] is False
    result = merged_tensors(text, tmp_path)
    head, embedding = (
        read_tensors(models["a"])["lm_head.weight"],
        read_tensors(models["tied"])["model.embed_tokens.weight"],
    )
    torch.testing.assert_close(result["lm_head.weight"], (head.float() + embedding.float()) / 2)


def test_a_table_of_positions_as_wide_is_not_what_a_head_is_tied_to(tmp_path: Path) -> None:
    """As in GPT-2."""
    tensors = {name: torch.full(shape, 1.0) for name, shape in (("wte.weight", (8, 4)), ("wpe.weight", (6, 4)))}
    tensors |= {f"h.{layer}.w": torch.ones(2) for layer in range(2)}
    config = {"model_type": "mine", "n_layer": 2, "vocab_size": 8}
    tied = write_checkpoint(tmp_path / "tied", tensors, config)
    tensors["lm_head.weight"] = torch.full((8, 4), 3.0)
    own = write_checkpoint(tmp_path / "own", tensors, config | {"tie_word_embeddings": False})
    text = f"merge_method: linear\nmodels: [{{model: {tied}}}, {{model: {own}}}]\nparameters: {{weight: 1}}\n"
    assert torch.equal(merged_tensors(text, tmp_path)["lm_head.weight"], torch.full((8, 4), 2.0))


def test_tied_inputs_stay_tied(models: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_text(f"merge_method: passthrough\nmodels: [{{model: {models['tied']}}}]\n", tmp_path)
    assert plan.config["tie_word_embeddings"] is True
    assert not any(t.name == "lm_head.weight" for t in plan.tensors)


def test_layer_lists_of_the_config_follow_the_layers(tmp_path: Path) -> None:
    from tests.synthetic import llama_config

    tensors = {n: torch.ones(s) for n, s in llama_shapes(4).items()}
    source = write_checkpoint(tmp_path / "m", tensors, llama_config(4) | {"layer_types": ["w", "x", "y", "z"]})
    text = f"merge_method: passthrough\nprune_layers: {{model: {source}, by: list, remove: [1, 2]}}\n"
    plan = plan_text(text, tmp_path)
    assert plan.config["layer_types"] == ["w", "z"]
    assert plan.config["num_hidden_layers"] == 2


def test_integer_tensors_are_carried_and_never_cast(tmp_path: Path) -> None:
    edit = {"model.layers.1.codes": torch.arange(5)}
    source = write_llama(tmp_path / "m", edit=edit)
    for method in ("passthrough", "linear"):
        recipe = f"merge_method: {method}\nmodels: [{{model: {source}}}]\nparameters: {{weight: 1}}\ndtype: float16\n"
        found = next(t for t in plan_text(recipe, tmp_path).tensors if t.name.endswith("codes"))
        assert (found.dtype, found.method) == ("I64", "passthrough")


def test_keys_change_only_where_the_expression_does(models: dict[str, Path], tmp_path: Path) -> None:
    def plan(mlp: float) -> Plan:
        return plan_text(
            f"merge_method: slerp\nbase_model: {models['a']}\nmodels: [{{model: {models['b']}}}]\n"
            f"parameters: {{t: [{{filter: mlp, value: {mlp}}}, {{value: 0.5}}]}}\n",
            tmp_path,
        )

    before, after = plan(0.2), plan(0.3)
    found = difference(after, before.to_json())
    assert found.changed
    assert all(".mlp." in name for name in found.changed)
    assert len(found.changed) == 4 * 3
    assert found.unchanged == len(after.tensors) - 12
    assert found.reasons == {"parameters": 12}
    assert difference(before, before.to_json()).is_empty


def test_key_does_not_depend_on_names_or_descriptions(models: dict[str, Path], tmp_path: Path) -> None:
    body = f"merge_method: passthrough\nmodels: [{{model: {models['a']}}}]\n"
    assert plan_text(body, tmp_path).key == plan_text(f"{body}description: other words\ntags: {{x: y}}\n", tmp_path).key


def test_plan_is_strict_json_and_the_same_every_time(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"name: same\nmerge_method: passthrough\nmodels: [{{model: {models['a']}}}]\n"
    first, second = plan_text(text, tmp_path).to_json(), plan_text(text, tmp_path).to_json()
    assert first == second
    assert json.loads(first)["recipe"] == "same"


def test_a_huge_checkpoint_is_planned_without_reading_its_weights(tmp_path: Path) -> None:
    """The weights are a hole in a sparse file of 2 TB; reading them would take hours."""
    folder = tmp_path / "huge"
    folder.mkdir()
    names = list(llama_shapes(2))
    each = 2_000_000_000_000 // len(names) // 2 // 16 * 16
    header = json.dumps(
        {
            n: {"dtype": "BF16", "shape": [each], "data_offsets": [2 * each * i, 2 * each * (i + 1)]}
            for i, n in enumerate(names)
        }
    ).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * each * len(names))
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    plan = plan_text(f"merge_method: linear\nmodels: [{{model: {folder}}}]\nparameters: {{weight: 1}}\n", tmp_path)
    assert plan.bytes_to_write > 1_900_000_000_000


WRONG = {
    "layer out of range": (
        "merge_method: passthrough\nslices: [{{sources: [{{model: {a}, layer_range: [2, 5]}}]}}]",
        r"slices\[0\]\.sources\[0\]\.layer_range: \[2, 5\] is out of bounds: .* has 4 layers, 0 to 3",
    ),
    "models of different depth": (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {deep}}}]",
        r"models: sources differ in their number of layers: .*has 4.*has 6",
    ),
    "vocabularies": (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {wordy}}}]",
        r"shapes differ for tensor model\.embed_tokens\.weight: .*\[32, 16\].*\[40, 16\].*tokenizer: \{{source: union\}}",
    ),
    "unknown method": (
        "merge_method: slurp\nmodels: [{{model: {a}}}]",
        r"merge_method: unknown method 'slurp', did you mean 'slerp'\?",
    ),
    "what only makes inputs": (
        "merge_method: input:gather\nmodels: [{{model: {a}}}]",
        r"merge_method: input:gather is not a merge method; docs/methods\.md lists them",
    ),
    "missing parameter": (
        "merge_method: linear\nmodels: [{{model: {a}}}]",
        r"parameters\.weight: missing; method linear needs it, give it a value",
    ),
    "parameter that no filter matches": (
        "merge_method: linear\nmodels: [{{model: {a}, parameters: {{weight: {{filter: mlp, value: 1}}}}}}]",
        r"parameters\.weight: missing for model .*, tensor model\.embed_tokens\.weight; .*filter",
    ),
    "unknown parameter": (
        "merge_method: linear\nmodels: [{{model: {a}, parameters: {{wieght: 1}}}}]",
        r"models\[0\]\.parameters\.wieght: unknown parameter, did you mean 'weight'\?",
    ),
    "parameter out of range": (
        "merge_method: ties\nbase_model: {a}\nmodels: [{{model: {b}}}]\nparameters: {{weight: 1, density: 1.5}}",
        r"parameters\.density: 1\.5 must be between 0 and 1",
    ),
    "no base": (
        "merge_method: ties\nmodels: [{{model: {b}}}]\nparameters: {{weight: 1}}",
        r"base_model: missing; method ties needs a base model",
    ),
    "too many models": (
        "merge_method: passthrough\nmodels: [{{model: {a}}}, {{model: {b}}}]",
        r"models: method passthrough takes 1 model, found 2",
    ),
    "base outside the slice": (
        "merge_method: ties\nbase_model: {a}\nparameters: {{weight: 1}}\n"
        "slices: [{{sources: [{{model: {b}, layer_range: [0, 4]}}]}}]",
        r"slices\[0\]\.sources: the base model .*a is not among the sources",
    ),
    "overlap": (
        "merge_method: passthrough\ndepth_upscale: {{model: {a}, overlap: 4}}",
        r"depth_upscale\.overlap: an overlap of 4 leaves nothing",
    ),
    "analysis that is not there": (
        "merge_method: passthrough\nprune_layers: {{model: {a}, by: snr, tensor: v_proj, remove: infinite}}",
        r"prune_layers\.by: needs the layer analysis .*merge-assets snr",
    ),
    "other tokenizers": (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {other}}}]\n"
        "tokenizer_source: union",
        r"tokenizer_source: .*a/tokenizer\.json: model\.vocab is missing",
    ),
    "chat template": (
        "merge_method: linear\nmodels: [{{model: {a}}}]\nparameters: {{weight: 1}}\nchat_template: chatlm",
        r"chat_template: unknown template 'chatlm', did you mean 'chatml'\?",
    ),
    "module": (
        "merge_method: passthrough\nmodules: {{vision: {{models: [{{model: {a}}}]}}}}",
        r"modules: found modules vision; the inputs have a single module",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_headers_is_a_plan_error(case: str, models: dict[str, Path], tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(RecipeError, match=message.replace("{{", "{").replace("}}", "}")) as caught:
        plan_text(text.format(**models), tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_quantised_input_is_refused(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m")
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(PlanError, match=r"is quantised \(gptq\)"):
        plan_text(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\n", tmp_path)


def test_a_tensor_that_only_one_source_has_is_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    biased = write_llama(tmp_path / "biased", edit={"model.layers.2.self_attn.q_proj.bias": torch.ones(16)})
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {models['a']}}}, {{model: {biased}}}]\n"
    with pytest.raises(PlanError, match=r"has no tensor model\.layers\.2\.self_attn\.q_proj\.bias"):
        plan_text(text, tmp_path)


def test_a_parameter_of_another_method_is_a_warning(models: dict[str, Path], tmp_path: Path) -> None:
    text = f"merge_method: linear\nmodels: [{{model: {models['a']}}}]\nparameters: {{weight: 1, density: 0.5}}\n"
    assert plan_text(text, tmp_path).warnings == (
        "parameters.density has no effect: method linear has no such parameter",
    )


@pytest.mark.parametrize("method", ["passthrough", "linear"])
def test_weights_without_elements_are_refused(method: str, tmp_path: Path) -> None:
    """As DeepSpeed's ZeRO-3 leaves them in a file."""
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {tensor: torch.zeros(shape) for tensor, shape in llama_shapes(1).items()} | {name: torch.zeros(0, 4)}
    folder = write_checkpoint(tmp_path / "a", tensors, llama_config(1))
    text = f"merge_method: {method}\nmodels: [{{model: {folder}}}]\n"
    with pytest.raises(PlanError, match=rf"tensor {name} of {folder} has no elements \(\[0, 4\]\)"):
        plan_text(text + ("parameters: {weight: 1}\n" if method == "linear" else ""), tmp_path)
