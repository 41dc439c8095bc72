"""Small checkpoints and an independent reference for the tests of the analysis room."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from merge_assets.checkpoint import Checkpoint, open_checkpoint

Doubles = npt.NDArray[np.float64]

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "tie_word_embeddings": True,
}


def write_checkpoint(
    directory: Path,
    tensors: Mapping[str, Doubles],
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float64,
    shards: int = 1,
) -> Checkpoint:
    """Write tensors in Hugging Face layout and open them."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {name: torch.tensor(np.ascontiguousarray(value)).to(dtype) for name, value in tensors.items()}
    if shards == 1:
        save_file(values, directory / "model.safetensors", {"format": "pt"})
    else:
        files = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(values)}
        for file in sorted(set(files.values())):
            save_file({n: values[n] for n in values if files[n] == file}, directory / file, {"format": "pt"})
        total = sum(value.numel() * value.element_size() for value in values.values())
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(dict(config)))
    return open_checkpoint(directory)


def llama(layers: int, seed: int = 0) -> tuple[dict[str, Doubles], dict[str, Any]]:
    """Tensors and config of a small Llama: noise plus a few strong directions, so that scores differ."""
    rng = np.random.default_rng(seed)
    hidden, inner = 32, 48
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (8, hidden),
        "self_attn.v_proj": (8, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    tensors = {"model.embed_tokens.weight": rng.standard_normal((64, hidden)), "model.norm.weight": np.ones(hidden)}
    for layer in range(layers):
        for name, (rows, columns) in shapes.items():
            noise = rng.standard_normal((rows, columns))
            spikes = rng.standard_normal((rows, 2)) @ rng.standard_normal((2, columns))
            tensors[f"model.layers.{layer}.{name}.weight"] = noise + rng.uniform(0, 1) * (layer % 3) * spikes
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(hidden)
    return tensors, {**LLAMA, "num_hidden_layers": layers}


def with_spectrum(values: npt.ArrayLike, columns: int, seed: int = 0) -> Doubles:
    """A matrix of the given singular values, between random orthogonal factors; shape (len(values), columns)."""
    rng = np.random.default_rng(seed)
    wanted = np.asarray(values, dtype=np.float64)
    left, _ = np.linalg.qr(rng.standard_normal((len(wanted), len(wanted))))
    right, _ = np.linalg.qr(rng.standard_normal((columns, len(wanted))))
    return np.asarray((left * wanted) @ right.T)


def reference_snr(matrix: Doubles) -> tuple[float, float, float]:
    """SNR, normalised SNR and margin, written from the definition on a full float64 SVD."""
    _, values, _ = np.linalg.svd(matrix, full_matrices=False)
    sigma = (np.percentile(values, 75) - np.percentile(values, 25)) / 1.349
    rows, columns = matrix.shape
    beta = min(rows, columns) / max(rows, columns)
    tau = sigma * (1 + math.sqrt(beta))
    signal = sum(float(v) for v in values if v > tau)
    rest = [float(v) for v in values if v <= tau]
    snr = signal / sum(rest) if rest else math.inf
    return snr, snr / float(values[0]), float(values[-1]) / tau
