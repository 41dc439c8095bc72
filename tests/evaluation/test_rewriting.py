"""A loaded model is rewritten where each tensor of its files is one of its own, and is then as transformers loads the other.

Oracle: ``from_pretrained``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from merge_assets.evaluation.rewriting import rewrite_tensors, why_not_rewritten

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def saved(folder: Path, kind: type[PreTrainedModel], config: PretrainedConfig, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    return folder


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rewritten_model_is_the_one_that_is_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    one, other = (saved(tmp_path / str(n), LlamaForCausalLM, LlamaConfig(**SMALL), n) for n in (0, 1))
    model = loaded(one, dtype)
    assert why_not_rewritten(model, one) == ""
    assert "is another tensor" in why_not_rewritten(model, other)

    changed = {name: tensor for name, tensor in load_file(other / "model.safetensors").items() if "mlp" in name}
    save_file(changed, tmp_path / "changed.safetensors")
    save_file(load_file(one / "model.safetensors") | changed, one / "model.safetensors", {"format": "pt"})
    rewrite_tensors(model, tmp_path / "changed.safetensors")
    expected = loaded(one, dtype).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)
    assert why_not_rewritten(model, one) == ""
    tokens = torch.arange(8).reshape(1, 8)
    with torch.no_grad():
        assert model(tokens).logits.equal(loaded(one, dtype)(tokens).logits)


def test_a_head_that_is_the_embedding_is_rewritten_with_it(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, tie_word_embeddings=True)
    folder = saved(tmp_path / "tied", LlamaForCausalLM, config)
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    model = loaded(folder)
    assert why_not_rewritten(model, folder) == ""
    other = torch.full_like(tensors["model.embed_tokens.weight"], 2.0)
    save_file({"model.embed_tokens.weight": other}, tmp_path / "changed.safetensors")
    rewrite_tensors(model, tmp_path / "changed.safetensors")
    assert model.lm_head.weight.equal(other)

    # Files that hold both say nothing of which of them is read.
    both = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(both, folder / "model.safetensors", {"format": "pt"})
    assert why_not_rewritten(loaded(folder), folder) != ""


def test_what_transformers_joins_or_makes_is_not_rewritten(tmp_path: Path) -> None:
    config = MixtralConfig(**SMALL, num_local_experts=2)
    experts = saved(tmp_path / "experts", MixtralForCausalLM, config)
    assert any(".experts.0." in name for name in load_file(experts / "model.safetensors"))
    assert "is no tensor of the loaded model" in why_not_rewritten(loaded(experts), experts)

    folder = saved(tmp_path / "llama", LlamaForCausalLM, LlamaConfig(**SMALL))
    model = loaded(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert why_not_rewritten(model, folder) == "model.norm.weight of the loaded model is in no file"
