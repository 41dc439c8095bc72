"""Checkpoints for tests: tiny real models, and safetensors files built byte by byte so that they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LLAMA_CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 4, "tie_word_embeddings": False}

Entry = tuple[str, list[int], int]
"""dtype, shape and number of bytes of a tensor."""


def raw_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header (JSON text or an object) and a header length that may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor_file(tensors: Mapping[str, Entry]) -> bytes:
    """A well-formed safetensors file whose data bytes count up, so that no two tensors look the same."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return raw_file(header, bytes(i * 31 % 251 for i in range(at)))


def write_files(directory: Path, files: Mapping[str, bytes | object]) -> Path:
    """Write files; what is not bytes is written as JSON."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return directory


def sharded(directory: Path, **changes: bytes | object) -> Path:
    """A good checkpoint of two shards ``a.safetensors`` and ``b.safetensors``, with files replaced by ``changes``.

    Keyword names stand for file names: ``index``, ``config``, ``a``, ``b``; ``None`` leaves the file out.
    """
    good: dict[str, bytes | object] = {
        "config": LLAMA_CONFIG,
        "index": {"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}},
        "a": tensor_file({"x": ("F32", [2, 3], 24)}),
        "b": tensor_file({"y": ("BF16", [4], 8)}),
    }
    names = {
        "config": "config.json",
        "index": "model.safetensors.index.json",
        "a": "a.safetensors",
        "b": "b.safetensors",
    }
    chosen = {names[key]: value for key, value in {**good, **changes}.items() if value is not None}
    return write_files(directory, chosen)


def save_llama(directory: Path, *, layers: int = 4, shard_size: str = "40KB", dtype: str = "float32") -> Path:
    """A transformers Llama with grouped-query attention (4 heads, 1 key-value head), random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        vocab_size=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard_size)
    return directory
