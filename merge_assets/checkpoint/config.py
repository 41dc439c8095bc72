"""Rewrite ``config.json`` so that it agrees with changed weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from merge_assets.checkpoint.stacks import LayerStack, config_value
from merge_assets.errors import CheckpointError

DTYPE_KEYS = ("dtype", "torch_dtype")
"""Where configs name the weights' dtype; the second is the older one."""

_NOT_PER_LAYER = ("architectures", "_token_id", "_tokens", "_token_ids")

Origin = tuple[Mapping[str, Any], int]
"""The config of the model that a layer comes from, and the layer's number there."""


def rewrite_config(
    config: Mapping[str, Any],
    stack: LayerStack,
    layers: Sequence[Origin],
    *,
    dtype: str | None,
    tied: bool | None,
    vocab_size: int | None = None,
) -> dict[str, Any]:
    """A copy of a config for a model whose stack consists of other layers.

    At the config level that holds the stack's layer count, three kinds of values follow the layers: lists with
    one entry per layer (``layer_types``), strings with one letter per layer (``hybrid_override_pattern``) and
    lists of layer numbers (``mlp_only_layers``). Whole numbers that only happen to equal the layer count, such as
    Qwen2's ``max_window_layers``, stay as they are, as do rules that give layers a role by their position
    (``first_k_dense_replace``, ``sliding_window_pattern``).

    Args:
        config: the donor's config; not changed.
        stack: the donor's stack.
        layers: where each new layer comes from, in order.
        dtype: torch name such as ``bfloat16`` of the new weights, ``None`` to keep what the config says.
        tied: new ``tie_word_embeddings``, ``None`` to keep it.
        vocab_size: new number of token rows, ``None`` to keep it.

    Raises:
        CheckpointError: if the layer count or a per-layer list cannot be made to agree.
    """
    new = copy.deepcopy(dict(config))
    if stack.config_key is not None:
        _rewrite_layers(new, config, stack, layers)
    elif len(layers) != stack.count:
        raise CheckpointError(
            f"config.json: no key holds the {stack.count} layers of {stack.prefix}*, so {len(layers)} layers cannot "
            "be written; add the architecture's layer count, such as num_hidden_layers"
        )
    if dtype is not None:
        _set_everywhere(new, DTYPE_KEYS, dtype, default="dtype" if _is_recent(config) else "torch_dtype")
    if tied is not None:
        _set_everywhere(new, ("tie_word_embeddings",), tied, default="tie_word_embeddings")
    if vocab_size is not None:
        _set_vocabulary(new, stack, vocab_size)
    return new


def _rewrite_layers(
    new: dict[str, Any], config: Mapping[str, Any], stack: LayerStack, layers: Sequence[Origin]
) -> None:
    *path, count_key = stack.config_key or ()
    level = _descend(new, tuple(path))
    old_level: Mapping[str, Any] = config_value(config, tuple(path)) if path else config
    for key, value in old_level.items():
        if _is_layer_numbers(key, value, stack.count):
            level[key] = [j for j, origin in enumerate(layers) if _listed(origin, (*path, key))]
        elif _is_per_layer(key, value, stack.count):
            entries = [_entry(origin, (*path, key), (*path, count_key), value) for origin in layers]
            level[key] = "".join(entries) if isinstance(value, str) else entries
    level[count_key] = len(layers)


def _is_per_layer(key: str, value: object, count: int) -> bool:
    if isinstance(value, str):
        return "pattern" in key and len(value) == count
    return isinstance(value, list) and len(value) == count and not key.endswith(_NOT_PER_LAYER)


def _is_layer_numbers(key: str, value: object, count: int) -> bool:
    """Whether a list names layers by number instead of holding one entry per layer."""
    if not isinstance(value, list) or "layer" not in key or not all(type(item) is int for item in value):
        return False
    distinct = len(set(value)) == len(value) and all(0 <= item < count for item in value)
    # A list as long as the stack holds one entry per layer, unless it plainly counts the layers up.
    return distinct and (len(value) != count or (count > 2 and value == list(range(count))))


def _listed(origin: Origin, path: tuple[str, ...]) -> bool:
    numbers = config_value(origin[0], path)
    return isinstance(numbers, list) and origin[1] in numbers


def _entry(origin: Origin, path: tuple[str, ...], count_path: tuple[str, ...], donor: Sequence[Any]) -> Any:
    """One layer's entry from its own model's list, or the donor's if that has the same for all layers."""
    source, layer = origin
    own = config_value(source, path)
    if isinstance(own, type(donor)) and len(own) == config_value(source, count_path):
        return copy.deepcopy(own[layer])
    if all(entry == donor[0] for entry in donor):
        return copy.deepcopy(donor[0])
    raise CheckpointError(
        f"config.json: {'.'.join(path)} has one entry per layer, but a model that gives layer {layer} has no such "
        "list of its own layers; add the list to that model's config.json"
    )


def _descend(config: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        config = config[key]
    return config


def _levels(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config and its sections (``text_config``, …)."""
    yield config
    yield from (value for key, value in config.items() if isinstance(value, dict) and key.endswith("_config"))


def _set_everywhere(config: dict[str, Any], keys: Sequence[str], value: object, *, default: str) -> None:
    """Set the keys wherever they are; add ``default`` to the top level if that has none of them."""
    for level in _levels(config):
        for key in keys:
            if key in level:
                level[key] = value
    if not any(key in config for key in keys):
        config[default] = value


def _set_vocabulary(config: dict[str, Any], stack: LayerStack, vocab_size: int) -> None:
    """Set the stack's own ``vocab_size``, and others that had the same value."""
    own = _descend(config, (stack.config_key or ("",))[:-1])
    level = own if "vocab_size" in own else config
    old = level.get("vocab_size")
    for other in _levels(config):
        if old is not None and other.get("vocab_size") == old:
            other["vocab_size"] = vocab_size
    level["vocab_size"] = vocab_size


def _is_recent(config: Mapping[str, Any]) -> bool:
    """Whether the config was written by a transformers that writes ``dtype``."""
    major = str(config.get("transformers_version", "")).partition(".")[0]
    return major.isdigit() and int(major) >= 5
