"""Synthetic checkpoints of the shape of TinyLlama 1.1B: a base and two siblings close to it, bfloat16.

    python -m benchmarks.checkpoints FOLDER [LAYERS]

The weights are random: a merge's time depends on shapes, dtypes and how often magnitudes repeat, not on their meaning.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int = 2048
    feed: int = 5632
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000


TINY_LLAMA = Shape()
LAYERS = 22
NAMES = ("base", "one", "two")
_TOKENIZER = Path(__file__).parents[1] / "examples" / "checkpoints" / "base"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_PER_SHARD = 1_000_000_000
_MOVE = 0.002
"""Standard deviation of a sibling's difference to the base, whose own is 0.02."""


def config(layers: int, shape: Shape = TINY_LLAMA) -> dict[str, object]:
    """The config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": layers,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def shapes(layers: int, shape: Shape = TINY_LLAMA) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in file order."""
    narrow = shape.hidden * shape.kv_heads // shape.heads
    yield "model.embed_tokens.weight", (shape.vocabulary, shape.hidden)
    for layer in range(layers):
        start = f"model.layers.{layer}."
        yield f"{start}self_attn.q_proj.weight", (shape.hidden, shape.hidden)
        yield f"{start}self_attn.k_proj.weight", (narrow, shape.hidden)
        yield f"{start}self_attn.v_proj.weight", (narrow, shape.hidden)
        yield f"{start}self_attn.o_proj.weight", (shape.hidden, shape.hidden)
        yield f"{start}mlp.gate_proj.weight", (shape.feed, shape.hidden)
        yield f"{start}mlp.up_proj.weight", (shape.feed, shape.hidden)
        yield f"{start}mlp.down_proj.weight", (shape.hidden, shape.feed)
        yield f"{start}input_layernorm.weight", (shape.hidden,)
        yield f"{start}post_attention_layernorm.weight", (shape.hidden,)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (shape.vocabulary, shape.hidden)


def write_family(folder: Path, layers: int = LAYERS, shape: Shape = TINY_LLAMA) -> dict[str, Path]:
    """The base and its siblings below ``folder``; what is there already is kept."""
    made = {name: folder / f"{name}-{layers}" for name in NAMES}
    for number, path in enumerate(made.values()):
        if not (path / "config.json").exists():
            _write(path, layers, shape, number)
        for file in _TOKENIZER_FILES:  # mergekit asks for a tokenizer that can be loaded
            shutil.copy(_TOKENIZER / file, path)
    return made


def _write(path: Path, layers: int, shape: Shape, sibling: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator()
    weight_map: dict[str, str] = {}
    pending: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        save_file(pending, path / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(pending, file))
        pending.clear()

    for number, (name, extent) in enumerate(shapes(layers, shape)):
        generator.manual_seed(number)
        values = torch.randn(extent, generator=generator).mul_(0.02)
        if sibling:
            generator.manual_seed(1000 * sibling + number)
            values += torch.randn(extent, generator=generator).mul_(_MOVE)
        pending[name] = values.bfloat16()
        size += pending[name].nbytes
        total += pending[name].nbytes
        if size >= _PER_SHARD:
            flush()
            size = 0
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text(json.dumps(config(layers, shape)))


if __name__ == "__main__":
    for made in write_family(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else LAYERS).values():
        print(made)
