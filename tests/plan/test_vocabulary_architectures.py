"""Contract: whatever the family calls its embeddings, all of them follow the vocabulary, and the model loads.

Tiny random models made with transformers, of five and six tokens, of which four are the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests.merging import merge_text, plan_text
from tests.synthetic import read_tensors
from tests.vocabulary_support import UNION, linear, numbered, tokens_of, word_document

WORDS = {"a": ("<unk>", "the", "cat", "sat", "a"), "b": ("b", "<unk>", "cat", "the", "b2", "sat")}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES: dict[str, tuple[type, dict[str, Any], set[str]]] = {
    "llama": (AutoModelForCausalLM, SMALL, {"model.embed_tokens.weight", "lm_head.weight"}),
    "gemma": (AutoModelForCausalLM, SMALL | {"head_dim": 8, "num_key_value_heads": 1}, {"model.embed_tokens.weight"}),
    "gpt2": (
        AutoModelForCausalLM,
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        {"transformer.wte.weight"},
    ),
    "gpt_neox": (AutoModelForCausalLM, SMALL, {"gpt_neox.embed_in.weight", "embed_out.weight"}),
    "falcon": (AutoModelForCausalLM, SMALL, {"transformer.word_embeddings.weight"}),
    "mamba": (
        AutoModelForCausalLM,
        {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        {"backbone.embeddings.weight"},
    ),
    "phi": (AutoModelForCausalLM, SMALL, {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}),
    "bart": (
        AutoModelForSeq2SeqLM,
        {
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 32,
        },
        {"model.shared.weight", "final_logits_bias"},
    ),
    "t5": (
        AutoModelForSeq2SeqLM,
        {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
        {"shared.weight"},
    ),
    "bert": (AutoModel, SMALL, {"embeddings.word_embeddings.weight"}),
}
SPECIAL = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0)


def save(folder: Path, family: str, words: tuple[str, ...], seed: int) -> Path:
    kind, settings, _ = FAMILIES[family]
    torch.manual_seed(seed)
    special = {"forced_eos_token_id": 0, **SPECIAL} if family == "bart" else SPECIAL
    config = AutoConfig.for_model(family, vocab_size=len(words), **special, **settings)
    model = kind.from_config(config)  # type: ignore[attr-defined]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "bias" in name:  # zeros tell nothing
            torch.nn.init.normal_(tensor)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(word_document(numbered(*words))))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_all_embeddings_of_a_family_follow_the_vocabulary(family: str, tmp_path: Path) -> None:
    folders = [save(tmp_path / name, family, words, seed) for seed, (name, words) in enumerate(WORDS.items())]
    kind, _, expected = FAMILIES[family]
    text = linear(*folders, more=UNION)
    assert {tensor.name for tensor in plan_text(text, tmp_path).tensors if tensor.makes_inputs} == expected
    out = merge_text(text, tmp_path)
    inputs = [read_tensors(folder) for folder in folders]
    for name in expected:
        merged = read_tensors(out)[name].squeeze()
        one, two = (tensors[name].squeeze() for tensors in inputs)
        for token, number in tokens_of(out).items():
            rows = [t[w.index(token)] for t, w in zip((one, two), WORDS.values(), strict=True) if token in w]
            assert torch.allclose(merged[number], torch.stack(rows).mean(0), rtol=1e-6), (name, token)
    _, report = kind.from_pretrained(out, output_loading_info=True)  # type: ignore[attr-defined]
    assert not (report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"])
