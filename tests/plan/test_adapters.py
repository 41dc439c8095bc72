"""Adapters: what PEFT's merge_and_unload gives, from the files alone, to float32 rounding; else one clear message."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, WhisperConfig, WhisperForConditionalGeneration

from tests import needs
from tests.adapter_support import (
    GPT2_CASES,
    LLAMA,
    LLAMA_CASES,
    assert_equal_to_rounding,
    edit_tensors,
    gpt2,
    llama,
    logits,
    merge_recipe,
    merged_by_peft,
    passthrough,
    peft_model,
    plain,
    plan_recipe,
    save_adapter,
    save_base,
    tied,
)
from tests.architectures import FAMILIES
from tests.synthetic import read_tensors

__all__ = ["gpt2", "llama", "plain", "tied"]

peft = needs.module("peft")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::peft.utils.warning.PeftWarning")

WHISPER = WhisperConfig(
    vocab_size=64,
    num_mel_bins=8,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_source_positions=16,
    max_target_positions=16,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=3,
)


# -- equal to PEFT -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LLAMA_CASES)
def test_lora_references_equal_what_peft_merges(case: str, llama: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", llama, peft.LoraConfig(**LLAMA_CASES[case]))
    ours = read_tensors(merge_recipe(passthrough(f"{llama}+{adapter}"), tmp_path))
    assert_equal_to_rounding(ours, merged_by_peft(llama, adapter))


@pytest.mark.parametrize("case", GPT2_CASES)
def test_weights_stored_as_in_by_out_are_adapted_transposed(case: str, gpt2: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", gpt2, peft.LoraConfig(**GPT2_CASES[case]))
    ours = read_tensors(merge_recipe(passthrough(f"{gpt2}+{adapter}"), tmp_path))
    theirs = merged_by_peft(gpt2, adapter)
    assert_equal_to_rounding(ours, {name: theirs[name] for name in ours})
    assert theirs.keys() - ours.keys() == {"lm_head.weight"}  # tied


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("Qwen3-MoE", ["q_proj", "gate_proj", "up_proj", "down_proj"]),
        ("DeepSeek-V3", ["o_proj", "gate_proj", "up_proj", "down_proj"]),
        ("Mixtral", ["q_proj", "w1", "w2", "w3"]),
    ],
)
@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_of_fused_experts_reach_every_expert_in_the_files(
    rslora: bool, name: str, targets: list[str], tmp_path: Path
) -> None:
    family = replace(FAMILIES[name], dtype=torch.float32)
    base = family.save(tmp_path / "base", 1)
    adapted = peft.get_peft_model(family.load(base)[0], peft.LoraConfig(r=3, target_modules=targets, use_rslora=rslora))
    torch.manual_seed(2)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    adapted.save_pretrained(tmp_path / "low")
    assert json.loads((tmp_path / "low/adapter_config.json").read_text())["target_parameters"]
    out = merge_recipe(passthrough(f"{base}+{tmp_path}/low"), tmp_path)
    model, report = family.load(out)
    assert not any(report.values())
    merged = adapted.merge_and_unload().eval()
    assert_equal_to_rounding(dict(model.state_dict()), dict(merged.state_dict()))
    with safe_open(out / "model.safetensors", "pt") as ours, safe_open(base / "model.safetensors", "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())  # one matrix for each expert, as it was


@pytest.mark.parametrize("dora", [False, True])
def test_convolutions_are_adapted(dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WHISPER)
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules=["conv1", "conv2"], use_dora=dora))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    adapted.save_pretrained(tmp_path / "low")
    theirs = adapted.merge_and_unload().state_dict()
    ours = read_tensors(merge_recipe(passthrough(f"{tmp_path}/base+{tmp_path}/low"), tmp_path))
    assert not torch.equal(
        ours["model.encoder.conv1.weight"], read_tensors(tmp_path / "base")["model.encoder.conv1.weight"]
    )
    assert_equal_to_rounding(ours, {name: theirs[name] for name in ours})


def test_an_adapter_with_more_tokens_brings_its_embeddings(llama: Path, tmp_path: Path) -> None:
    def grow(model: Any) -> None:
        torch.manual_seed(5)
        model.resize_token_embeddings(80)

    adapter = save_adapter(tmp_path / "adapter", llama, peft.LoraConfig(r=2, target_modules=["q_proj"]), change=grow)
    out = merge_recipe(passthrough(f"{llama}+{adapter}"), tmp_path)
    assert_equal_to_rounding(read_tensors(out), merged_by_peft(llama, adapter, grow))
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 80
    (warning,) = plan_recipe(passthrough(f"{llama}+{adapter}"), tmp_path).warnings
    assert "the adapter brings 80 token rows instead of 64, but no tokenizer" in warning


def test_the_merged_model_loads_and_computes_what_the_adapted_one_does(
    llama: Path, plain: Path, tmp_path: Path
) -> None:
    out = merge_recipe(passthrough(f"{llama}+{plain}"), tmp_path)
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert torch.allclose(logits(model.eval()), logits(peft_model(llama, plain)), atol=1e-5)


def test_tensors_that_an_adapter_replaces_are_listed_as_dropped(llama: Path, tmp_path: Path) -> None:
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = save_adapter(tmp_path / "adapter", llama, lora)
    plan = plan_recipe(passthrough(f"{llama}+{adapter}"), tmp_path)
    assert [(item.tensor, item.reason) for item in plan.dropped] == [
        ("lm_head.weight", "replaced by base_model.model.lm_head.weight of the adapter")
    ]


def test_the_config_is_that_of_the_model(llama: Path, plain: Path, tmp_path: Path) -> None:
    out = merge_recipe(passthrough(f"{llama}+{plain}"), tmp_path)
    kept = json.loads((llama / "config.json").read_text())
    assert json.loads((out / "config.json").read_text()) == kept
    assert not (out / "adapter_config.json").exists()


def test_bfloat16_is_rounded_once(llama: Path, plain: Path, tmp_path: Path) -> None:
    ours = read_tensors(merge_recipe(passthrough(f"{llama}+{plain}", "bfloat16"), tmp_path))
    name = "model.layers.1.self_attn.q_proj"
    low = read_tensors(plain)
    down, up = (low[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    exact = read_tensors(llama)[f"{name}.weight"].double() + 2.0 * up @ down
    assert torch.equal(ours[f"{name}.weight"], exact.float().bfloat16())


def test_names_without_prefix_and_with_the_adapters_name_are_read(llama: Path, plain: Path, tmp_path: Path) -> None:
    expected = merged_by_peft(llama, plain)
    for number, rename in enumerate(
        (
            lambda name: name.removeprefix("base_model.model."),
            lambda name: name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
            lambda name: name.replace("base_model.model.model.", "base_model.model."),
            lambda name: name.replace("base_model.model.model.", "base_model.model.model.language_model."),
        )
    ):
        copy = tmp_path / f"copy{number}"
        copy.mkdir()
        for file in plain.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        edit_tensors(copy, lambda tensors, rename=rename: {rename(name): t for name, t in tensors.items()})
        ours = read_tensors(merge_recipe(passthrough(f"{llama}+{copy}"), tmp_path))
        assert_equal_to_rounding(ours, expected)


# -- tied embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["embedding", "head", "both", "saved head", "saved embedding"],
)
def test_a_tied_head_is_untied_where_only_one_of_the_two_is_adapted(
    lora: dict[str, Any], tied: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter", tied, peft.LoraConfig(r=2, **lora))
    out = merge_recipe(passthrough(f"{tied}+{adapter}"), tmp_path)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert torch.allclose(logits(model.eval()), logits(peft_model(tied, adapter)), atol=1e-5)


def test_a_tied_head_stays_tied_where_the_adapter_keeps_it_so(tied: Path, tmp_path: Path) -> None:
    lora = peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True)
    adapter = save_adapter(tmp_path / "adapter", tied, lora)
    out = merge_recipe(passthrough(f"{tied}+{adapter}"), tmp_path)
    assert "lm_head.weight" not in read_tensors(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(logits(model.eval()), logits(peft_model(tied, adapter)), atol=1e-5)


def test_a_tied_head_stays_tied_where_the_adapter_leaves_both_alone(tied: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tied, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    out = merge_recipe(passthrough(f"{tied}+{adapter}"), tmp_path)
    assert "lm_head.weight" not in read_tensors(out)


# -- the kernel --------------------------------------------------------------------------------------------------------


def test_long_sums_are_those_of_float64(tmp_path: Path) -> None:
    """Rank 64 in float32 sums would lose four digits here."""
    base = save_base(tmp_path / "base", LLAMA)
    adapter = save_adapter(tmp_path / "adapter", base, peft.LoraConfig(r=64, lora_alpha=64, target_modules=["q_proj"]))
    low = read_tensors(adapter)
    name = "model.layers.0.self_attn.q_proj"
    down, up = (low[f"base_model.model.{name}.lora_{side}.weight"].double().numpy() for side in "AB")
    edit_tensors(
        adapter,
        lambda tensors: tensors | {f"base_model.model.{name}.lora_A.weight": torch.from_numpy(1e4 * down).float()},
    )
    down = np.float32(1e4 * down).astype(np.float64)
    ours = read_tensors(merge_recipe(passthrough(f"{base}+{adapter}"), tmp_path))[f"{name}.weight"]
    exact = read_tensors(base)[f"{name}.weight"].double().numpy() + up @ down
    assert np.abs(ours.double().numpy() - exact).max() <= 2**-24 * np.abs(exact).max()
