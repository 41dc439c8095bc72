"""The table *Semantics that must hold* of the specification, row by row: what the best-known tool gets wrong.

Left out are the rows of other files: tokenizers (test_vocabulary.py), LoRA references (test_adapters.py) and quantised inputs
(test_formats.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets import api
from merge_assets.errors import EngineError, PlanError, RecipeError
from merge_assets.methods import find_method
from merge_assets.settings import Settings
from tests.architectures import FAMILIES
from tests.merging import merge_text, merged_tensors, plan_text
from tests.method_support import Case, merge_arrays
from tests.synthetic import HIDDEN, llama_config, llama_shapes, read_tensors, write_checkpoint, write_llama

UP = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "a": write_llama(root / "a", 4, seed=1),
        "b": write_llama(root / "b", 4, seed=2),
        "half": write_llama(root / "half", 4, seed=3, dtype=torch.float16),
        "tied": write_llama(root / "tied", 4, seed=4, tied=True),
        "wordy": write_llama(root / "wordy", 4, seed=5, vocabulary=40),
    }


def linear(*folders: Path) -> str:
    return (
        f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{', '.join(f'{{model: {f}}}' for f in folders)}]\n"
    )


def passthrough(model: Path, *ranges: tuple[int, int]) -> str:
    slices = "".join(f"  - sources: [{{model: {model}, layer_range: [{a}, {b}]}}]\n" for a, b in ranges)
    return f"merge_method: passthrough\nslices:\n{slices}"


# -- unknown key or parameter name -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dtpye: float32", "dtpye: unknown key.*did you mean 'dtype'"),
        ("parameters: {weight: 1, normalise: true}", "normalise: unknown parameter, did you mean 'normalize'"),
    ],
)
def test_unknown_key_or_parameter_name(line: str, message: str, models: Mapping[str, Path], tmp_path: Path) -> None:
    text = f"merge_method: linear\nmodels: [{{model: {models['a']}}}]\n{line}\n"
    with pytest.raises(RecipeError, match=message):
        plan_text(text, tmp_path)


def test_keys_for_anchors_are_free(models: Mapping[str, Path], tmp_path: Path) -> None:
    text = f"x-half: &half 0.5\nconst_tag: &tag {{weight: *half}}\n{linear(models['a'])}".replace(
        "parameters: {weight: 1}", "parameters: *tag"
    )
    assert plan_text(text, tmp_path).tensors[0].inputs[0].parameters == {"weight": 0.5}


# -- donor of config and tokenizer without base_model ------------------------------------------------------------------


@pytest.mark.parametrize("first", ["a", "b"])
def test_donor_of_config_and_tokenizer_without_base_model(
    first: str, models: Mapping[str, Path], tmp_path: Path
) -> None:
    other = "b" if first == "a" else "a"
    plan = plan_text(linear(models[first], models[other]), tmp_path)
    assert plan.models[plan.donor].reference == str(models[first])
    assert {plan.models[carried.model].reference for carried in plan.carried} == {str(models[first])}


# -- the same model twice in one slice ---------------------------------------------------------------------------------


def test_the_same_model_twice_in_one_slice(models: Mapping[str, Path], tmp_path: Path) -> None:
    sources = ", ".join(
        f"{{model: {models['a']}, layer_range: [{start}, {start + 1}], parameters: {{weight: {weight}}}}}"
        for start, weight in ((1, 0.25), (3, 0.75))
    )
    text = f"merge_method: linear\nslices: [{{sources: [{sources}]}}]\ndtype: float32\n"
    source, result = read_tensors(models["a"]), merged_tensors(text, tmp_path)
    expected = 0.25 * source[UP.format(1)].double() + 0.75 * source[UP.format(3)].double()
    assert torch.equal(result[UP.format(0)], expected.float())


# -- a one-layer or reversed or out-of-bounds layer_range ----------------------------------------------------------------


def test_a_one_layer_range_is_fine(models: Mapping[str, Path], tmp_path: Path) -> None:
    result = merged_tensors(passthrough(models["a"], (2, 3)), tmp_path)
    assert torch.equal(result[UP.format(0)], read_tensors(models["a"])[UP.format(2)])


@pytest.mark.parametrize(
    ("span", "message"), [((3, 1), "is reversed"), ((2, 2), "layer_range"), ((2, 5), "out of bounds: .* has 4 layers")]
)
def test_a_reversed_empty_or_out_of_bounds_range_is_an_error(
    span: tuple[int, int], message: str, models: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_text(passthrough(models["a"], span), tmp_path)


# -- last slice has more sources than the first ------------------------------------------------------------------------


def test_last_slice_has_more_sources_than_the_first(models: Mapping[str, Path], tmp_path: Path) -> None:
    text = f"""
merge_method: linear
parameters: {{weight: 1}}
dtype: float32
slices:
  - sources: [{{model: {models["a"]}, layer_range: [0, 2]}}]
  - sources: [{{model: {models["a"]}, layer_range: [2, 4]}}, {{model: {models["b"]}, layer_range: [2, 4]}}]
"""
    a, b, result = read_tensors(models["a"]), read_tensors(models["b"]), merged_tensors(text, tmp_path)
    for name in ("model.norm.weight", "lm_head.weight"):
        assert torch.equal(result[name], ((a[name].double() + b[name].double()) / 2).float()), name
    assert torch.equal(result["model.embed_tokens.weight"], a["model.embed_tokens.weight"].float())


# -- stacked layers with layer_types or other per-layer config lists -----------------------------------------------------


def with_config(folder: Path, config: Mapping[str, object]) -> Path:
    tensors = {name: torch.ones(shape) for name, shape in llama_shapes(4).items()}
    return write_checkpoint(folder, tensors, llama_config(4) | dict(config))


SLICES = ((0, 3), (1, 4))
ORIGINS = (0, 1, 2, 1, 2, 3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"layer_types": list("wxyz")}, {"layer_types": list("wxyxyz")}),
        ({"no_rope_layers": [1, 1, 1, 0]}, {"no_rope_layers": [1, 1, 1, 1, 1, 0]}),
        ({"mlp_only_layers": [1, 3]}, {"mlp_only_layers": [1, 3, 5]}),
        ({"fullatt_block_indexes": [2]}, {"fullatt_block_indexes": [2, 4]}),
        ({"hybrid_override_pattern": "M-M*"}, {"hybrid_override_pattern": "M-M-M*"}),
        ({"sliding_window": [8, 8, 8, None]}, {"sliding_window": [8, 8, 8, 8, 8, None]}),
        ({"moe_layers": [1, 3], "interleave_moe_layer_step": 2}, {"moe_layers": [1, 3, 5]}),
        ({"n_layer": 4}, {"n_layer": 6}),
        ({"eos_token_id": [1, 2, 3, 4]}, {"eos_token_id": [1, 2, 3, 4]}),
        # Rules by position: kept where they say the same, solved anew, or overridden by the list of the same roles.
        ({"first_k_dense_replace": 1}, {"first_k_dense_replace": 1}),
        ({"num_dense_layers": 4}, {"num_dense_layers": 6}),
        ({"num_kv_shared_layers": 1}, {"num_kv_shared_layers": 1}),
        ({"max_window_layers": 3, "use_sliding_window": True}, {"max_window_layers": 5}),
        ({"max_window_layers": 3, "use_sliding_window": False}, {"max_window_layers": 3}),
        ({"sliding_window_pattern": 1}, {"sliding_window_pattern": 1, "layer_types": None}),
        (
            {"sliding_window_pattern": 4},
            {"layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
        ),
        ({"no_rope_layer_interval": 4}, {"no_rope_layers": [1, 1, 1, 1, 1, 0]}),
        ({"interleave_moe_layer_step": 2}, {"moe_layers": None, "interleave_moe_layer_step": 2}),
        (
            {"decoder_sparse_step": 3, "mlp_only_layers": []},
            {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1, 3, 5]},
        ),
        ({"block_types": ["r", "r", "a"]}, {"block_types": ["r", "r", "a", "r", "a", "r"]}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_stacked_layers_with_per_layer_config_lists(
    config: dict[str, object], expected: dict[str, object], tmp_path: Path
) -> None:
    plan = plan_text(passthrough(with_config(tmp_path / "m", config), *SLICES), tmp_path)
    assert plan.config["num_hidden_layers"] == len(ORIGINS)
    assert {key: plan.config.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    "config",
    [
        {"first_k_dense_replace": 2},
        {"num_dense_layers": 2},
        {"num_kv_shared_layers": 2},
        {"max_window_layers": 2, "use_sliding_window": True},
        {"attn_layer_period": 4, "attn_layer_offset": 2},
        {"moe_layer_start_index": 2, "moe_layer_interval": 1},
    ],
    ids=lambda config: next(iter(config)),
)
def test_layers_that_no_value_of_a_rule_describes_are_a_plan_error(config: dict[str, object], tmp_path: Path) -> None:
    model = with_config(tmp_path / "m", config)
    with pytest.raises(PlanError, match=rf"slices: .*config\.json: {next(iter(config))} gives layers their roles"):
        plan_text(passthrough(model, *SLICES), tmp_path)


def test_a_rule_that_no_key_states_is_asked_of_transformers(tmp_path: Path) -> None:
    """Gemma 2's older files say nowhere that every second layer slides."""
    family = FAMILIES["Gemma2"]
    model = family.save(tmp_path / "m", 1)
    config = json.loads((model / "config.json").read_text())
    del config["layer_types"]
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "odd.yaml").write_text(passthrough(model, (0, 2), (1, 4)))
    (tmp_path / "recipes" / "even.yaml").write_text(passthrough(model, (0, 3), (1, 4)))
    space = api.Workspace.open(Settings(root=tmp_path))
    assert api.plan(space, space.recipe("even")).layer_count == 6
    with pytest.raises(PlanError, match=r"layer 2 of the variant would be layer_types 'sliding.*comes from layer 1 of"):
        api.plan(space, space.recipe("odd"))


# -- a tensor that no template names -----------------------------------------------------------------------------------

ODD = {
    "model.layers.1.self_attn.q_proj.bias": torch.ones(HIDDEN),
    "model.layers.4.eh_proj.weight": torch.ones(3, 3),
    "model.layers.4.mlp.up_proj.weight": torch.ones(2, 2),
    "visual.patch_embed.proj.weight": torch.ones(5),
    "visual.blocks.0.attn.qkv.weight": torch.ones(6),
    "something.else": torch.ones(7),
}


def test_a_tensor_that_no_template_names_is_carried(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m", edit=ODD)
    before, after = read_tensors(source), merged_tensors(linear(source, source), tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in ODD)


def test_prediction_heads_are_numbered_on_from_the_last_layer(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m", edit=ODD)
    result = merged_tensors(passthrough(source, *SLICES), tmp_path)
    assert torch.equal(result["model.layers.6.eh_proj.weight"], ODD["model.layers.4.eh_proj.weight"])
    assert torch.equal(result["model.layers.6.mlp.up_proj.weight"], ODD["model.layers.4.mlp.up_proj.weight"])
    assert torch.equal(result[UP.format(4)], read_tensors(source)[UP.format(2)])


@pytest.mark.parametrize("name", ODD)
def test_a_tensor_that_only_one_input_has_is_an_error_or_a_head_that_the_donor_lacks(
    name: str, models: Mapping[str, Path], tmp_path: Path
) -> None:
    odd = write_llama(tmp_path / "odd", edit={name: ODD[name]})
    if name == "model.layers.4.eh_proj.weight":  # of a layer beyond the last
        (decision,) = plan_text(linear(models["a"], odd), tmp_path).decisions
        assert (decision.what, decision.example) == ("dropped", name)
        return
    with pytest.raises(PlanError, match=rf"has no tensor {name}|differ in their"):
        plan_text(linear(models["a"], odd), tmp_path)


def test_a_table_of_the_architecture_is_carried_and_other_integers_where_they_are_equal(tmp_path: Path) -> None:
    table = {"model.position_ids": torch.arange(5)}
    source = write_llama(tmp_path / "m", edit=table)
    plan = plan_text(linear(source, source), tmp_path)
    tensor = next(tensor for tensor in plan.tensors if tensor.name in table)
    assert (tensor.method, tensor.dtype) == ("passthrough", "I64")
    assert any("model.position_ids is carried" in warning for warning in plan.warnings)
    odd, other = (write_llama(tmp_path / str(n), edit={"model.codes": torch.arange(n, n + 5)}) for n in range(2))
    assert [one.example for one in plan_text(linear(odd, odd), tmp_path).decisions] == ["model.codes"]
    with pytest.raises(PlanError, match=r"model\.codes holds whole numbers \(I64\), which differ in"):
        plan_text(linear(odd, other), tmp_path)


# -- vocabulary or other shapes differ and no tokenizer setting -----------------------------------------------------------


def test_vocabularies_that_differ_without_a_tokenizer_setting(models: Mapping[str, Path], tmp_path: Path) -> None:
    message = (
        r"shapes differ for tensor model\.embed_tokens\.weight: .*\[32, 16\].*\[40, 16\].*tokenizer: \{source: union\}"
    )
    with pytest.raises(PlanError, match=message):
        plan_text(linear(models["a"], models["wordy"]), tmp_path)


def test_other_shapes_that_differ(models: Mapping[str, Path], tmp_path: Path) -> None:
    wide = write_llama(tmp_path / "wide", edit={UP.format(2): torch.ones(25, HIDDEN)})
    message = r"shapes differ for tensor model\.layers\.2\.mlp\.up_proj\.weight: .*\[24, 16\].*\[25, 16\]"
    with pytest.raises(PlanError, match=message):
        plan_text(linear(models["a"], wide), tmp_path)


# -- one input ties lm_head, another does not ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["a", "tied"])
def test_one_input_ties_lm_head_another_does_not(first: str, models: Mapping[str, Path], tmp_path: Path) -> None:
    other = "tied" if first == "a" else "a"
    out = merge_text(linear(models[first], models[other]) + "dtype: float32\n", tmp_path)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    head = read_tensors(models["a"])["lm_head.weight"].double()
    embedding = read_tensors(models["tied"])["model.embed_tokens.weight"].double()
    assert torch.equal(read_tensors(out)["lm_head.weight"], ((head + embedding) / 2).float())


# -- mixed input dtypes, or methods that promote ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "arcee_fusion", "ramplus_tl"])
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
def test_mixed_input_dtypes_or_methods_that_promote(
    method: str, dtype: str | None, models: Mapping[str, Path], tmp_path: Path
) -> None:
    """Without a dtype in the recipe it is that of the base, or of the first model."""
    text = linear(models["a"], models["half"])
    if find_method(method).needs_base:
        text = f"merge_method: {method}\nbase_model: {models['a']}\nmodels: [{{model: {models['half']}}}]\n"
    plan = plan_text(text + (f"dtype: {dtype}\n" if dtype else ""), tmp_path)
    expected = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype or "bfloat16"]
    assert {tensor.dtype for tensor in plan.tensors} == {expected}
    assert plan.config["torch_dtype"] == (dtype or "bfloat16")


# -- a run over an existing output folder, or killed half-way ----------------------------------------------------------------


def test_a_run_over_an_existing_output_folder(models: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(linear(models["a"], models["b"]))
    space = api.Workspace.open(Settings(root=tmp_path))
    recipe, out = space.recipe("mean"), tmp_path / "out"
    api.merge(space, recipe, out, shard_size=3000)
    assert (out / "model.safetensors.index.json").exists()
    with pytest.raises(EngineError, match="holds files already"):
        api.merge(space, recipe, out)
    api.merge(space, recipe, out, overwrite=True)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]


def test_a_run_that_is_stopped_half_way_leaves_nothing(models: Mapping[str, Path], tmp_path: Path) -> None:
    """Killed ones: test_engine_faults.py."""
    from merge_assets.errors import Stopped
    from merge_assets.work import Work

    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(linear(models["a"], models["b"]))
    space = api.Workspace.open(Settings(root=tmp_path))
    with pytest.raises(Stopped):
        api.merge(space, space.recipe("mean"), tmp_path / "out", work=Work(should_stop=lambda: True))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


# -- linear weights that sum to zero, width-1 rows in della, sce on small deltas, k = 0, a zero vector in slerp, NaN ---------

BASE, CHANGE = np.array([[1.0], [2.0], [3.0]]), np.array([[0.5], [-0.25], [0.125]])


def test_linear_weights_that_sum_to_zero_with_normalize(tmp_path: Path) -> None:
    case = Case("linear", per_model={"weight": [0.5, -0.5]})
    with pytest.raises(PlanError, match=r"tensor x: the weights \[0\.5, -0\.5\] sum to 0.*normalize: false"):
        merge_arrays(case, {"a": {"x": BASE}, "b": {"x": CHANGE}}, tmp_path)


def test_width_1_rows_in_della(tmp_path: Path) -> None:
    """A row of one has no ranks: its probability is the density, here 1."""
    case = Case("della", "a", base="base", per_model={"weight": [1]}, whole={"density": 1.0, "epsilon": 0.0})
    result = merge_arrays(case, {"base": {"x": BASE}, "a": {"x": BASE + CHANGE}}, tmp_path)
    assert (result["x"] == BASE + CHANGE).all()


def test_sce_on_small_deltas(tmp_path: Path) -> None:
    """Their squares vanish in float32; weights go by the energy nevertheless: here 1 to 4."""
    models = {"base": {"x": 0 * BASE}, "a": {"x": 1e-25 * CHANGE}, "b": {"x": 2e-25 * CHANGE}}
    result = merge_arrays(Case("sce", base="base"), models, tmp_path)
    np.testing.assert_allclose(result["x"], (1 * 1e-25 + 4 * 2e-25) / 5 * CHANGE, rtol=1e-6)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "sce"])
def test_k_of_0_in_a_top_k_gives_the_base(method: str, tmp_path: Path) -> None:
    whole = {"select_topk": 0.01} if method == "sce" else {"density": 0.01}
    case = Case(method, base="base", per_model={} if method == "sce" else {"weight": [1, 1]}, whole=whole)
    models = {"base": {"x": BASE}, "a": {"x": BASE + CHANGE}, "b": {"x": BASE - CHANGE}}
    assert (merge_arrays(case, models, tmp_path)["x"] == BASE).all()


def test_a_zero_vector_in_slerp(tmp_path: Path) -> None:
    """No direction: the straight line."""
    result = merge_arrays(
        Case("slerp", base="a", whole={"t": 0.25}), {"a": {"x": 0 * BASE}, "b": {"x": BASE}}, tmp_path
    )
    np.testing.assert_allclose(result["x"], 0.25 * BASE, rtol=1e-7)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_or_inf_in_inputs(poison: float, tmp_path: Path) -> None:
    case = Case("linear", per_model={"weight": [0.5, 0.5]})
    with pytest.raises(EngineError, match="NaN or infinite elements: x"):
        merge_arrays(case, {"a": {"x": BASE}, "b": {"x": np.where(BASE > 2, poison, BASE)}}, tmp_path)


# -- Mixtral/Qwen-MoE expert tensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Mixtral", "Qwen2-MoE", "Qwen3-MoE"])
def test_expert_tensors_are_kept_in_the_layout_of_the_files(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    a, b = family.save(tmp_path / "a", 1), family.save(tmp_path / "b", 2)
    before, after = read_tensors(a), merged_tensors(linear(a, b), tmp_path)
    experts = [key for key in after if ".experts.1." in key]
    assert experts
    assert before.keys() == after.keys()
