"""Adapted models in merges: with each other, in stacks, folded, on other vocabularies, on the Hub, in the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from merge_assets import api
from merge_assets.api.audit import audit
from merge_assets.recipe import load_recipe
from merge_assets.reference import ModelReference
from merge_assets.store.inventory import survey
from tests import needs
from tests.adapter_support import (
    GPT2_CASES,
    LINEAR,
    LLAMA_CASES,
    assert_equal_to_rounding,
    edit_tensors,
    gpt2,
    llama,
    merge_recipe,
    merged_by_peft,
    passthrough,
    plain,
    plan_recipe,
    save_adapter,
    workspace_of,
    write_factors,
)
from tests.format_support import random_scales, write_fp8
from tests.hub_server import HubServer
from tests.hub_support import folder_files
from tests.synthetic import HIDDEN, read_tensors
from tests.vocabulary_support import word_model

__all__ = ["gpt2", "llama", "plain"]

peft = needs.module("peft")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::peft.utils.warning.PeftWarning")

# -- in merges ---------------------------------------------------------------------------------------------------------


def test_two_adapters_on_one_base_merge_as_the_models_that_they_make(llama: Path, plain: Path, tmp_path: Path) -> None:
    other = save_adapter(tmp_path / "other", llama, peft.LoraConfig(r=3, target_modules=LINEAR, use_dora=True), seed=9)
    recipe = (
        "merge_method: linear\ndtype: float32\nmodels:\n"
        f"  - {{model: {llama}+{plain}, parameters: {{weight: 0.3}}}}\n"
        f"  - {{model: {llama}+{other}, parameters: {{weight: 0.7}}}}\n"
    )
    ours = read_tensors(merge_recipe(recipe, tmp_path))
    one, two = merged_by_peft(llama, plain), merged_by_peft(llama, other)
    assert_equal_to_rounding(ours, {name: 0.3 * one[name].double() + 0.7 * two[name].double() for name in one})


def test_a_task_vector_can_be_that_of_an_adapter(llama: Path, plain: Path, tmp_path: Path) -> None:
    recipe = (
        f"merge_method: ties\ndtype: float32\nbase_model: {llama}\nparameters: {{normalize: false}}\nmodels:\n"
        f"  - {{model: {llama}+{plain}, parameters: {{weight: 1.0, density: 1.0}}}}\n"
    )
    assert_equal_to_rounding(read_tensors(merge_recipe(recipe, tmp_path)), merged_by_peft(llama, plain))


def test_adapted_models_can_be_stacked_and_unused_layers_of_the_adapter_are_listed(
    llama: Path, plain: Path, tmp_path: Path
) -> None:
    recipe = (
        "merge_method: passthrough\ndtype: float32\nslices:\n"
        f"  - sources: [{{model: {llama}+{plain}, layer_range: [0, 2]}}]\n"
        f"  - sources: [{{model: {llama}+{plain}, layer_range: [1, 2]}}]\n"
    )
    theirs = merged_by_peft(llama, plain)
    ours = read_tensors(merge_recipe(recipe, tmp_path))
    name = "self_attn.q_proj.weight"
    for layer, source in ((0, 0), (1, 1), (2, 1)):
        assert torch.allclose(ours[f"model.layers.{layer}.{name}"], theirs[f"model.layers.{source}.{name}"], atol=1e-6)
    dropped = {item.tensor for item in plan_recipe(recipe, tmp_path).dropped}
    assert "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight" in dropped
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" not in dropped


@pytest.mark.parametrize("stored", [True, False])
def test_a_recipes_model_can_be_adapted_stored_or_not(stored: bool, llama: Path, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    text = f"{passthrough(f'{llama}+{plain}')}evaluate: []\nmaterialize: {str(stored).lower()}\n"
    (tmp_path / "recipes" / "adapted.yaml").write_text(text)
    theirs, base = merged_by_peft(llama, plain), read_tensors(llama)
    once = read_tensors(merge_recipe(passthrough("adapted"), tmp_path))
    assert_equal_to_rounding(once, theirs)
    twice = read_tensors(merge_recipe(passthrough(f"adapted+{plain}"), tmp_path))
    assert_equal_to_rounding(twice, {name: 2 * theirs[name].double() - base[name].double() for name in base})


def test_an_adapted_embedding_is_brought_to_another_vocabulary(tmp_path: Path) -> None:
    one = word_model(tmp_path / "one", "<unk>", "the", "cat", "sat")
    two = word_model(tmp_path / "two", "mat", "cat", "<unk>", hundreds=1)
    torch.manual_seed(0)
    low = write_factors(tmp_path / "low", model__embed_tokens=(torch.randn(2, 3), torch.randn(HIDDEN, 2)))
    by_hand = merge_recipe(passthrough(f"{two}+{low}"), tmp_path)

    def union(model: object) -> dict[str, torch.Tensor]:
        recipe = (
            "merge_method: linear\ndtype: float32\ntokenizer_source: union\nparameters: {weight: 1}\nmodels:\n"
            f"  - model: {one}\n  - model: {model}\n"
        )
        return read_tensors(merge_recipe(recipe, tmp_path))

    expected, ours = union(by_hand), union(f"{two}+{low}")
    assert ours["model.embed_tokens.weight"].shape == (5, HIDDEN)
    assert_equal_to_rounding(ours, expected)


def test_a_quantised_model_can_be_adapted(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    model = write_fp8(
        tmp_path / "model",
        lambda rows, columns: random_scales(-(-rows // 8), -(-columns // 8)),
        {"quant_method": "fp8", "weight_block_size": [8, 8]},
    )
    down, up = torch.randn(2, HIDDEN), torch.randn(HIDDEN, 2)
    low = write_factors(tmp_path / "low", **{name.replace(".", "__"): (down, up)})
    ours = read_tensors(merge_recipe(passthrough(f"{model}+{low}"), tmp_path))[f"{name}.weight"].double()
    stored = read_tensors(model)
    scales = stored[f"{name}.weight_scale_inv"].double().repeat_interleave(8, 0).repeat_interleave(8, 1)
    exact = stored[f"{name}.weight"].double() * scales + 1.5 * up.double() @ down.double()
    assert (ours - exact).abs().max() <= 2**-23 * exact.abs().max()


@pytest.mark.parametrize("case", ["rank-stabilised", "DoRA of embeddings and head", "DoRA"])
def test_bytes_do_not_depend_on_tiles_and_threads(case: str, llama: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", llama, peft.LoraConfig(**LLAMA_CASES[case]))
    recipe = passthrough(f"{llama}+{adapter}")
    whole = (merge_recipe(recipe, tmp_path, threads=1) / "model.safetensors").read_bytes()
    for options in ({"threads": 4}, {"threads": 2, "tile": 1024}, {"threads": 1, "tile": 1031}):
        assert (merge_recipe(recipe, tmp_path, **options) / "model.safetensors").read_bytes() == whole


def test_transposed_bytes_do_not_depend_on_tiles_and_threads(gpt2: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", gpt2, peft.LoraConfig(**GPT2_CASES["fan_in_fan_out with DoRA"]))
    recipe = passthrough(f"{gpt2}+{adapter}")
    whole = (merge_recipe(recipe, tmp_path, threads=1) / "model.safetensors").read_bytes()
    for options in ({"threads": 4}, {"threads": 2, "tile": 1024}, {"threads": 1, "tile": 1031}):
        assert (merge_recipe(recipe, tmp_path, **options) / "model.safetensors").read_bytes() == whole


def test_a_build_is_made_again_when_the_adapters_bytes_change(llama: Path, plain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in plain.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "r.yaml"
    file.write_text(passthrough(f"{llama}+{copy}") + "evaluate: []\n")
    workspace = workspace_of(tmp_path)
    first = api.build(workspace, load_recipe(file))
    assert not first.reused
    assert api.build(workspace, load_recipe(file)).reused
    assert set(first.artifact.manifest.fingerprints) == {f"{llama}+{copy}", str(copy)}
    before = api.observe(workspace, ModelReference(str(copy)))
    edit_tensors(copy, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    after = api.observe(workspace, ModelReference(str(copy)))
    assert before.fingerprint != after.fingerprint
    assert after.architecture == "LORA adapter"
    again = api.build(workspace, load_recipe(file))
    assert not again.reused
    changed = {t.name for t, o in zip(again.plan.tensors, first.plan.tensors, strict=True) if t.key != o.key}
    assert changed == {
        f"model.layers.{layer}.self_attn.{module}.weight" for layer in range(3) for module in ("q_proj", "v_proj")
    }


def test_an_audit_reads_adapters_again(llama: Path, plain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(plain, copy)
    (tmp_path / "recipes").mkdir()
    for name, adapter in (("local", str(copy)), ("far", "acme/lora")):
        (tmp_path / f"recipes/{name}.yaml").write_text(passthrough(f"{llama}+{adapter}") + "evaluate: []\n")

    def states() -> dict[str, str]:
        found = survey(workspace.store)
        audited = audit(workspace, found, found.everything)
        return {one.input.name: one.state for one in audited if one.input.name in (str(copy), "acme/lora")}

    with HubServer() as server:
        server.commit("acme/lora", folder_files(plain))
        workspace = workspace_of(tmp_path, hub_endpoint=server.url, hub_cache=tmp_path / "hub")
        for name in ("local", "far"):
            api.build(workspace, workspace.recipe(name))
    assert states() == {str(copy): "same", "acme/lora": "same"}
    edit_tensors(copy, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    (cached,) = (tmp_path / "hub").rglob("snapshots/*/adapter_model.safetensors")
    data = bytearray(cached.read_bytes())
    data[-1] ^= 1
    cached.resolve().write_bytes(data)
    assert states() == {str(copy): "changed", "acme/lora": "changed"}
    shutil.rmtree(copy)
    shutil.rmtree(tmp_path / "hub")
    assert states() == {str(copy): "gone", "acme/lora": "elsewhere"}


# -- on the Hub, and in the pipeline -----------------------------------------------------------------------------------


def test_an_adapter_on_the_hub_is_planned_without_its_weights_and_then_merged(
    llama: Path, plain: Path, tmp_path: Path
) -> None:
    with HubServer() as server:
        server.commit("acme/base", folder_files(llama))
        server.commit("acme/lora", folder_files(plain))
        options = {"hub_endpoint": server.url, "hub_cache": tmp_path / "hub"}
        for model in ("acme/base+acme/lora", f"{llama}+acme/lora", f"acme/base+{plain}"):
            plan = plan_recipe(passthrough(model), tmp_path, **options)
            assert plan.models[0].reference == model
        assert not list((tmp_path / "hub").rglob("*.safetensors"))
        out = merge_recipe(passthrough("acme/base+acme/lora@main"), tmp_path, settings=options)
        assert_equal_to_rounding(read_tensors(out), merged_by_peft(llama, plain))
        observed = api.observe(workspace_of(tmp_path, **options), ModelReference("acme/lora"))
        local = api.observe(workspace_of(tmp_path), ModelReference(str(plain)))
        assert observed.fingerprint == local.fingerprint
        assert observed.revision is not None


def test_the_pipeline_observes_the_model_and_the_adapter(llama: Path, plain: Path, tmp_path: Path) -> None:
    from merge_assets.pipeline.graph import build_graph

    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "adapted.yaml").write_text(passthrough(f"{llama}+{plain}") + "evaluate: []\n")
    graph = build_graph(workspace_of(tmp_path))
    assert {str(base.reference) for base in graph.bases} == {str(llama), str(plain)}
    (variant,) = graph.variants
    assert [str(parent.reference) for parent in variant.parents] == [str(llama)]
    assert [str(adapter.reference) for adapter in variant.adapters] == [str(plain)]
    assert set(variant.deps) == {base.key for base in graph.bases}
