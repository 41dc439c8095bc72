"""Small checkpoints with random weights, made on the spot, for tests of the planner and the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HIDDEN, KV, FEED, VOCABULARY = 16, 4, 24, 32


def llama_shapes(layers: int, *, tied: bool = False, vocabulary: int = VOCABULARY) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Llama with grouped-query attention."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        shapes |= {
            f"{start}input_layernorm.weight": (HIDDEN,),
            f"{start}mlp.down_proj.weight": (HIDDEN, FEED),
            f"{start}mlp.gate_proj.weight": (FEED, HIDDEN),
            f"{start}mlp.up_proj.weight": (FEED, HIDDEN),
            f"{start}post_attention_layernorm.weight": (HIDDEN,),
            f"{start}self_attn.k_proj.weight": (KV, HIDDEN),
            f"{start}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{start}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{start}self_attn.v_proj.weight": (KV, HIDDEN),
        }
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, HIDDEN)
    return shapes


def llama_config(layers: int, *, tied: bool = False, vocabulary: int = VOCABULARY) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "max_position_embeddings": 64,
    }


def write_llama(
    directory: Path,
    layers: int = 4,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tied: bool = False,
    vocabulary: int = VOCABULARY,
    shards: int = 1,
    edit: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder: weights, index if sharded, config and a tokenizer file.

    Args:
        directory: folder to make.
        layers: number of layers.
        seed: of the weights.
        dtype: of the weights.
        tied: without an output head.
        vocabulary: rows of the embedding.
        shards: number of weight files.
        edit: tensors that replace or join the random ones.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in llama_shapes(layers, tied=tied, vocabulary=vocabulary).items()
    }
    tensors |= edit or {}
    return write_checkpoint(directory, tensors, llama_config(layers, tied=tied, vocabulary=vocabulary), shards=shards)


def write_checkpoint(
    directory: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, object], *, shards: int = 1
) -> Path:
    directory.mkdir(parents=True)
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
            save_file({name: tensors[name] for name in part}, directory / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    return directory


def read_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, by the safetensors library."""
    return {
        name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


def write_project(root: Path) -> Path:
    """Models ``a``, ``b`` and ``c`` of one shape, and a folder for recipes."""
    for seed, name in enumerate("abc"):
        write_llama(root / name, seed=seed)
    (root / "recipes").mkdir()
    return root
