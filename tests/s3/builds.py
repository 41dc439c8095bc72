"""Models of some tens of MB, so that shards have several parts, and projects that merge them into a bucket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from merge_assets import api
from merge_assets.settings import Settings

HIDDEN, FEED, VOCABULARY, LAYERS = 512, 1408, 4096, 6
SHARD = 20_000_000

MEAN = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]\n"
DEEP = "merge_method: passthrough\ndepth_upscale: {model: mean, overlap: 4}\n"


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama, in the order of its files."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        found |= {f"{start}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        found |= {f"{start}mlp.{name}_proj.weight": (FEED, HIDDEN) for name in ("gate", "up")}
        found[f"{start}mlp.down_proj.weight"] = (HIDDEN, FEED)
        found |= {f"{start}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FEED,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def model_files(seed: int, shards: int = 5, change: int | None = None) -> dict[str, bytes]:
    """The files of a checkpoint; with ``change``, that shard (from 0) has other weights than the seed alone gives."""
    groups = np.array_split(np.array(list(shapes().items()), dtype=object), shards)
    files, places = {}, {}
    for number, group in enumerate(groups):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        random = np.random.default_rng([seed, number, number == change])
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at, blobs = 0, []
        for name, shape in group:
            values = (random.standard_normal(shape, dtype=np.float32) * 0.02).view(np.uint32) >> 16
            blobs.append(values.astype("<u2").tobytes())
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + len(blobs[-1])]}
            at += len(blobs[-1])
            places[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        files[file] = len(text).to_bytes(8, "little") + text + b"".join(blobs)
    index = {"metadata": {"total_size": sum(map(len, files.values()))}, "weight_map": places}
    return files | {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


def write_model(folder: Path, seed: int, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in model_files(seed, **options).items():
        (folder / name).write_bytes(data)
    return folder


def project(root: Path, **recipes: str) -> Path:
    """A project of two models and recipes of them; by default ``mean``, and ``deep`` made of it."""
    write_model(root / "a", 1)
    write_model(root / "b", 2)
    (root / "recipes").mkdir()
    for name, text in (recipes or {"mean": MEAN, "deep": DEEP}).items():
        (root / "recipes" / f"{name}.yaml").write_text(text)
    return root


def workspace(root: Path, store: str = "", options: Mapping[str, Any] | None = None, **settings: Any) -> api.Workspace:
    """The project with a store of its own, or in a bucket; remote stores have a cache and scratch folder of their own."""
    name = hashlib.sha256(f"{store}{sorted(settings.items())}".encode()).hexdigest()[:8]
    return api.Workspace.open(
        Settings(
            root=root,
            store=store or str(root / "store"),
            store_options=dict(options or {}),
            device="cpu",
            **{"cache_dir": root / f"cache-{name}", "shard_size": SHARD, **settings},
        )
    )


def build(space: api.Workspace, name: str, **options: Any) -> api.Built:
    return api.build(space, space.recipe(name), **options)


def contents(built: api.Built, cache: Path) -> dict[str, str]:
    """sha256 of every file of a version but those that name the store, by name."""
    folder = built.artifact.directory(cache)
    named = {"README.md", "mergekit_config.yml", "plan.json", "manifest.json"}
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name not in named
    }
