"""Hypothesis strategies that damage sound files: in their bytes, or in the JSON that they hold."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st


def _nested(levels: int, leaf: Any = 0, *, as_map: bool = False) -> Any:
    for _ in range(levels):
        leaf = {"a": leaf} if as_map else [leaf]
    return leaf


HOSTILE: list[Any] = [
    "qwen3_moe", "deepseek_v3", "gemma3", "t5", "llama4", "jamba", "MEM*", "full_attention", "linear_attention", [3], [1, 1, 0],
    None, True, False, -1, 0, 1, 2, 3, 2**31, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0, 1e308, math.nan, math.inf,
    -math.inf, [0.0, math.inf],
    "", "0", "x" * 2000, "..", "../../../../etc/passwd", "/etc/passwd", "a/b", "..\\x", "\ud800", "\u202e", "\x00",
    "\n", "é", "🙂",
    [], {}, [[]], [None], [0, 1, 2], [-1], [2**70], ["full_attention"] * 2, {"a": {"b": []}}, {"": 0}, {"..": ".."},
    _nested(60), _nested(300, as_map=True), "BF16", "F8_E4M3", "U8", "float32", "<s>", "{% for x in y %}",
]  # fmt: skip
hostile = st.sampled_from(HOSTILE)

KEYS = [
    "attn_layer_offset", "attn_layer_period", "block_types", "decoder_sparse_step", "encoder_layers", "expert_layer_period",
    "first_k_dense_replace", "full_attention_interval", "global_attn_every_n_layers", "interleave_moe_layer_step",
    "max_window_layers", "mlp_only_layers", "moe_layer_end_index", "moe_layer_freq", "moe_layers", "no_rope_layer_interval",
    "no_rope_layers", "num_dense_layers", "num_kv_shared_layers", "hybrid_override_pattern", "sliding_window_pattern",
    "_sliding_window_pattern", "use_sliding_window", "transformers_version", "vision_tower", "num_layers", "depth",
    "num_hidden_layers", "vocab_size", "text_config", "vision_config", "layer_types", "quantization_config", "auto_map",
    "model_type", "architectures", "tie_word_embeddings", "dtype", "__metadata__", "weight_map", "metadata", "dtype", "shape",
    "data_offsets", "added_tokens", "vocab", "merges", "model", "id", "content", "chat_template", "rank_pattern", "use_dora",
    "modules_to_save", "target_modules", "model.layers.0.mlp.up_proj.weight", "model.layers.99999.mlp.up_proj.weight",
    "model.layers.0.mlp.up_proj.weight_scale_inv", "../x", "", "a" * 300, "\ud800",
    "model.layers.-1.x", "model.layers.3.mlp.up_proj.weight",
]  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        found += _places(child, (*path, key))
    return found


def _edit(draw: st.DrawFn, content: Any) -> Any:
    path = draw(st.sampled_from(_places(content)))
    if not path:
        return copy.deepcopy(draw(hostile)) if draw(st.integers(0, 9)) == 0 else content
    node = content
    for key in path[:-1]:
        node = node[key]
    match draw(st.sampled_from(["replace", "replace", "delete", "rename", "add", "twin", "number"])):
        case "replace":
            node[path[-1]] = copy.deepcopy(draw(hostile))
        case "delete":
            del node[path[-1]]
        case "rename" if isinstance(node, dict):
            node[draw(st.sampled_from(KEYS))] = node.pop(path[-1])
        case "add" if isinstance(node, dict):
            node[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(hostile))
        case "twin" if isinstance(node, list):
            node.append(copy.deepcopy(node[path[-1]]))
        case "number":
            if type(node[path[-1]]) is int:
                node[path[-1]] += draw(st.sampled_from([-1, 1, 7, 2**32, 10**12]))
    return content


@st.composite
def damaged_json(draw: st.DrawFn, sound: bytes) -> bytes:
    """The JSON of a sound file with one to four places changed; sometimes with a key twice."""
    content = json.loads(sound)
    for _ in range(draw(st.integers(1, 4))):
        content = _edit(draw, content)
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        text = text.replace("{", '{"twice": 1, "twice": 2, ', 1)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """A sound file with bits flipped, pieces cut out or put in, or its first eight bytes (a length) replaced."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        # The head is where the structure is.
        at = draw(st.integers(0, min(len(data), 400)) | st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "truncate", "insert", "length", "copy"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 64))]
            case "truncate":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "length":
                data[:8] = draw(st.integers(0, 2**64 - 1) | st.integers(0, len(data) + 9)).to_bytes(8, "little")
            case "copy":
                data[at:at] = data[: draw(st.integers(0, 64))]
    return bytes(data)


def damaged(sound: bytes) -> st.SearchStrategy[bytes]:
    """A sound JSON file, damaged in either way."""
    return st.one_of(damaged_json(sound), damaged_json(sound), damaged_bytes(sound))
