"""Small sound inputs that the fuzzers start from, made without torch."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

from tests.checkpoint_support import raw_file

LAYERS, HIDDEN, FEED, VOCABULARY = 3, 8, 12, 16

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FEED,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "layer_types": ["full_attention"] * LAYERS,
    "bos_token_id": 0,
    "eos_token_id": [0, 1],
}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "<s>", "special": True, "single_word": False, 
                      "lstrip": False, "rstrip": False, "normalized": False}],
    "model": {"type": "BPE", "vocab": {chr(96 + n) if n else "<s>": n for n in range(VOCABULARY)}, "merges": []},
}  # fmt: skip
ADAPTER = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "x",
    "bias": "none",
    "fan_in_fan_out": False,
}


def shapes() -> dict[str, list[int]]:
    found = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN]}
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        found |= {
            f"{start}input_layernorm.weight": [HIDDEN],
            f"{start}mlp.down_proj.weight": [HIDDEN, FEED],
            f"{start}mlp.gate_proj.weight": [FEED, HIDDEN],
            f"{start}mlp.up_proj.weight": [FEED, HIDDEN],
            f"{start}post_attention_layernorm.weight": [HIDDEN],
            f"{start}self_attn.k_proj.weight": [HIDDEN // 2, HIDDEN],
            f"{start}self_attn.o_proj.weight": [HIDDEN, HIDDEN],
            f"{start}self_attn.q_proj.weight": [HIDDEN, HIDDEN],
            f"{start}self_attn.v_proj.weight": [HIDDEN // 2, HIDDEN],
        }
    return found | {"model.norm.weight": [HIDDEN], "lm_head.weight": [VOCABULARY, HIDDEN]}


def header(tensors: dict[str, list[int]]) -> tuple[dict[str, object], int]:
    """A safetensors header of BF16 tensors, and how many bytes of data it describes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return entries, at


def shard(tensors: dict[str, list[int]]) -> bytes:
    entries, size = header(tensors)
    return raw_file(entries, bytes(size))


def model_files() -> dict[str, bytes]:
    """A sound Llama of two shards with a tokenizer."""
    found = shapes()
    names = list(found)
    half = len(names) // 2
    parts = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    files = {file: shard({name: found[name] for name in part}) for file, part in parts.items()}
    texts: dict[str, object] = {
        "config.json": CONFIG,
        "generation_config.json": {"eos_token_id": 1, "bos_token_id": 0},
        "model.safetensors.index.json": index,
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "a", "chat_template": "{{ messages }}"},
        "special_tokens_map.json": {"bos_token": {"content": "<s>"}},
    }
    return files | {name: json.dumps(content).encode() for name, content in texts.items()}


def adapter_files() -> dict[str, bytes]:
    """A sound LoRA adapter for it."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format("A"): [2, HIDDEN], name.format("B"): [HIDDEN, 2]}
    return {"adapter_config.json": json.dumps(ADAPTER).encode(), "adapter_model.safetensors": shard(tensors)}


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder hold exactly these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)


RECIPES = {
    "passthrough": "merge_method: passthrough\nmodels: [{model: ./m}]\n",
    "linear": "merge_method: linear\nmodels: [{model: ./m}, {model: ./good}]\nparameters: {weight: 1}\n",
    "ties": "merge_method: ties\nbase_model: ./good\nmodels: [{model: ./m}]\nparameters: {weight: 1, density: 0.5}\n",
    "stack": "merge_method: passthrough\nslices:\n- sources: [{model: ./m, layer_range: [0, 2]}]\n"
    "- sources: [{model: ./good, layer_range: [1, 3]}]\n",
    "dus": "merge_method: passthrough\ndepth_upscale: {model: ./m, overlap: 1}\ndtype: float16\n",
    "union": "merge_method: linear\nmodels: [{model: ./m}, {model: ./good}]\nparameters: {weight: 1}\n"
    "tokenizer: {source: union, tokens: {a: {source: ./m}, z: {source: {kind: zero}}}, pad_to_multiple_of: 8}\n",
    "tokenizer": "merge_method: linear\nmodels: [{model: ./good}, {model: ./m}]\nparameters: {weight: 1}\n"
    "tokenizer_source: ./m\nchat_template: auto\n",
    "adapter": "merge_method: passthrough\nmodels: [{model: ./good+./adapter}]\n",
}


def quantised_files() -> dict[str, bytes]:
    """A sound model whose projections are stored in eight bits, with a scale for each block of four by four."""
    entries: dict[str, object] = {}
    at = 0

    def add(name: str, dtype: str, shape: list[int], width: int) -> None:
        nonlocal at
        size = width * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size

    for name, shape in shapes().items():
        if name.endswith("_proj.weight"):
            add(name, "F8_E4M3", shape, 1)
            add(f"{name}_scale_inv", "F32", [math.ceil(n / 4) for n in shape], 4)
        else:
            add(name, "BF16", shape, 2)
    config = {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}
    return {"model.safetensors": raw_file(entries, bytes(at)), "config.json": json.dumps(config).encode()}


def pickled_files() -> dict[str, bytes]:
    """A sound model of pickled weights."""
    import torch

    stream = io.BytesIO()
    torch.save({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes().items()}, stream)
    return {"pytorch_model.bin": stream.getvalue(), "config.json": json.dumps(CONFIG).encode()}
