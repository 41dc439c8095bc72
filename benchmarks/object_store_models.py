"""Checkpoints of TinyLlama's shape in five shards for a Hub on loopback, with revisions in which one shard changed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks.checkpoints import TINY_LLAMA, Shape, config, shapes

SHARDS = 5


def shape_of(hidden: int) -> Shape:
    """TinyLlama made narrower or wider; the vocabulary stays."""
    heads = max(1, hidden * TINY_LLAMA.heads // TINY_LLAMA.hidden)
    feed = hidden * TINY_LLAMA.feed // TINY_LLAMA.hidden
    return Shape(hidden, feed, heads, max(1, heads // 8), TINY_LLAMA.vocabulary)


def model_files(seed: int, layers: int, shape: Shape) -> dict[str, bytes]:
    """The files of a checkpoint, bfloat16, by name."""
    groups = _groups(list(shapes(layers, shape)))
    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for number, group in enumerate(groups):
        name = _name(number, len(groups))
        files[name] = _shard(group, np.random.default_rng([seed, number, 0]))
        places |= {tensor: name for tensor, _ in group}
    index = {"metadata": {"total_size": sum(map(len, files.values()))}, "weight_map": places}
    return files | {
        "config.json": json.dumps(config(layers, shape)).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


def revision(seed: int, layers: int, shape: Shape, shard: int, times: int) -> dict[str, bytes]:
    """What is new in a revision in which one shard, counted from 0, changed for the ``times``-th time."""
    groups = _groups(list(shapes(layers, shape)))
    number = shard % len(groups)
    return {_name(number, len(groups)): _shard(groups[number], np.random.default_rng([seed, number, times]))}


def _groups(tensors: list[tuple[str, tuple[int, ...]]]) -> list[list[tuple[str, tuple[int, ...]]]]:
    total, at = sum(_size(extent) for _, extent in tensors), 0
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in range(SHARDS)]
    for name, extent in tensors:
        # By the middle of a tensor, so that shards are alike in size.
        groups[min(SHARDS - 1, (at + _size(extent) // 2) * SHARDS // total)].append((name, extent))
        at += _size(extent)
    return [group for group in groups if group]


def _shard(tensors: list[tuple[str, tuple[int, ...]]], random: np.random.Generator) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, extent in tensors:
        header[name] = {"dtype": "BF16", "shape": list(extent), "data_offsets": [at, at + 2 * _size(extent)]}
        at += 2 * _size(extent)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # Of bfloat16's bits: sign, two of the exponent and the mantissa at random, which gives magnitudes below 0.008.
    bits = random.integers(0, 1 << 16, at // 2, dtype=np.uint16)
    bits &= 0x81FF
    bits |= 0x3A00
    return len(text).to_bytes(8, "little") + text + bits.astype("<u2", copy=False).tobytes()


def _name(shard: int, count: int) -> str:
    return f"model-{shard + 1:05}-of-{count:05}.safetensors"


def _size(extent: tuple[int, ...]) -> int:
    return int(np.prod(extent, dtype=np.int64))
