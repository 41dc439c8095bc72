"""Contract: what the donor stores in float32 and transformers computes with in float32 is not rounded with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.merging import merge_text, merged_tensors
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
DEEPSEEK: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
T5: dict[str, Any] = {"vocab_size": 64, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "DeepSeek-V3": ("DeepseekV3", SMALL | EXPERTS | DEEPSEEK, "bfloat16"),
    "GLM-4 MoE": ("Glm4Moe", SMALL | EXPERTS | {"head_dim": 8}, "bfloat16"),
    "T5": ("T5", T5 | {"tie_word_embeddings": False}, "float16"),
    "T5 in bfloat16": ("T5", T5, "bfloat16"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_are_as_exact_as_what_transformers_makes_of_them(family: str, tmp_path: Path) -> None:
    name, settings, dtype = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**settings)
    kind = getattr(transformers, f"{name}ForConditionalGeneration", None) or getattr(transformers, f"{name}ForCausalLM")
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "a")
    out = merge_text(f"merge_method: passthrough\nmodels: [{{model: {tmp_path / 'a'}}}]\ndtype: {dtype}\n", tmp_path)
    loaded = kind.from_pretrained(out, dtype=getattr(torch, dtype)).state_dict()
    exact = {name for name, tensor in loaded.items() if tensor.dtype == torch.float32}
    stored = load_file(out / "model.safetensors")
    assert {name for name in exact & stored.keys() if stored[name].dtype != torch.float32} == set()
    assert exact or family == "T5 in bfloat16"
    before = load_file(tmp_path / "a" / "model.safetensors")
    assert all(torch.equal(stored[name], before[name]) for name in exact & stored.keys())


def test_what_the_donor_stores_in_less_is_not_made_more_of(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.gate.e_score_correction_bias"
    for dtype, expected in ((torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)):
        folder = write_llama(tmp_path / str(dtype), 1, edit={name: torch.ones(4, dtype=dtype)})
        text = f"merge_method: passthrough\nmodels: [{{model: {folder}}}]\ndtype: bfloat16\n"
        assert merged_tensors(text, tmp_path)[name].dtype == expected
