"""Find the layers of a model from its tensor names and config, without a list of architectures.

A stack is a prefix followed by the numbers 0, 1, … n-1. Only the outermost number of a name counts, so
``model.layers.3.mlp.experts.7.w1.weight`` belongs to layer 3 of ``model.layers.``. Tensors in no stack
(embeddings, norms, heads, and numbered modules with holes) are *outside*.

Which config key holds a stack's layer count is read off the value: a whole number equal to the count, under
a usual name such as ``num_hidden_layers``, or, where a config level has no usual name at all, under any
name that contains "layer". Where several fit, the one whose words agree with the prefix wins
(``vision_config.num_hidden_layers`` for ``vision_tower.…``, ``num_decoder_layers`` for ``decoder.block.``),
then the usual order of names, then the shallower key, then the alphabet.

A config without such a number may list its layers one by one (``layers_block_type`` of Nemotron-H); then the list is the key.

A checkpoint may number extra prediction heads after the last layer (DeepSeek's MTP layers). Where the config's
count is smaller than the number found and every layer beyond it has tensors that no earlier layer has, the
stack ends at the config's count and the layers beyond are outside; ``LayerStack.tail`` counts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.architecture.towers import tower_of

USUAL_NAMES = (
    "num_hidden_layers",
    "num_layers",
    "n_layers",
    "n_layer",
    "num_transformer_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "decoder_layers",
    "encoder_layers",
    "depth",
)
"""Config keys that hold a layer count in published configs, most usual first."""

_NEUTRAL = frozenset(
    ("num", "n", "layers", "layer", "hidden", "depth", "config", "model", "transformer", "text", "language", "llm")
)
_TEXT = frozenset(("text", "language", "llm"))
_FIRST_NUMBER = re.compile(r"(?:^|(?<=\.))(0|[1-9][0-9]{0,5})\.(?=.)")


@dataclass(frozen=True)
class LayerStack:
    """A run of numbered layers.

    Attributes:
        prefix: what precedes the layer's number, with its dot: ``model.layers.``.
        count: number of layers.
        config_key: path of the layer count in ``config.json``, or of the list that has an entry per layer; ``None`` if
            no key has that value.
        members: suffixes of the tensors of a layer, such as ``self_attn.q_proj.weight``; the union over all
            layers, in order of first appearance.
        homogeneous: every layer has every member.
        tail: numbered layers beyond ``count`` that are outside the stack (prediction heads).
    """

    prefix: str
    count: int
    config_key: tuple[str, ...] | None
    members: tuple[str, ...]
    homogeneous: bool
    tail: int = 0

    def split(self, name: str) -> tuple[int, str] | None:
        """``(layer, suffix)`` of a tensor of this stack, ``None`` for any other tensor."""
        parts = split_number(name)
        if parts is None or parts[0] != self.prefix or parts[1] >= self.count:
            return None
        return parts[1], parts[2]

    def split_tail(self, name: str) -> tuple[int, str] | None:
        """``(number, suffix)`` of a tensor beyond the last layer, numbered from 0 there; ``None`` for any other."""
        parts = split_number(name)
        if parts is None or parts[0] != self.prefix or not self.count <= parts[1] < self.count + self.tail:
            return None
        return parts[1] - self.count, parts[2]

    def join(self, layer: int, suffix: str) -> str:
        """The name of a tensor of this stack; the inverse of :meth:`split`."""
        return f"{self.prefix}{layer}.{suffix}"


def find_stacks(
    names: Iterable[str], config: Mapping[str, Any], nbytes: Mapping[str, int] | None = None
) -> tuple[LayerStack, ...]:
    """Every stack of a checkpoint, the main one first.

    Args:
        names: the tensors' names.
        config: the content of ``config.json``.
        nbytes: size of each tensor; the stack with most bytes is the main one. Without it, the one with most
            tensors.
    """
    layers: dict[str, dict[int, dict[str, None]]] = {}
    weight: dict[str, int] = {}
    for name in names:
        parts = split_number(name)
        if parts is not None:
            prefix, layer, suffix = parts
            layers.setdefault(prefix, {}).setdefault(layer, {})[suffix] = None
            weight[prefix] = weight.get(prefix, 0) + (1 if nbytes is None else nbytes[name])
    prefixes = [prefix for prefix, found in layers.items() if max(found) == len(found) - 1]
    prefixes.sort(key=lambda prefix: (-weight[prefix], prefix))
    counts, listings = list(_counts(config)), list(_listings(config))
    return tuple(_stack(prefix, layers[prefix], counts, listings) for prefix in prefixes)


def split_number(name: str) -> tuple[str, int, str] | None:
    """``(prefix, number, suffix)`` at the outermost number of a name, ``None`` if it has none."""
    match = _FIRST_NUMBER.search(name)
    return (name[: match.start()], int(match[1]), name[match.end() :]) if match else None


def config_value(config: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The value at a path of keys, ``None`` if there is none."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _stack(
    prefix: str,
    layers: Mapping[int, Mapping[str, None]],
    counts: list[tuple[tuple[str, ...], int]],
    listings: list[tuple[tuple[str, ...], int]],
) -> LayerStack:
    count = len(layers)
    key = _count_key(prefix, count, counts)
    possible = [item for item in counts if _may_count(prefix, item[0])]
    if key is None and possible:
        likely, value = min(possible, key=lambda item: _rank(prefix, item[0]))
        if 0 < value < count and _is_tail(layers, value):
            count, key = value, likely
    key = key or _count_key(prefix, count, listings)
    members = dict.fromkeys(suffix for layer in range(count) for suffix in layers[layer])
    homogeneous = all(len(layers[layer]) == len(members) for layer in range(count))
    return LayerStack(prefix, count, key, tuple(members), homogeneous, len(layers) - count)


def _is_tail(layers: Mapping[int, Mapping[str, None]], count: int) -> bool:
    """Whether every layer from ``count`` on has a tensor that no layer before it has."""
    body = {suffix for layer in range(count) for suffix in layers[layer]}
    return all(layers[layer].keys() - body for layer in range(count, len(layers)))


def _counts(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every ``(path, value)`` of a config that may be a layer count."""
    usual = any(name in config for name in USUAL_NAMES)
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _counts(value, (*path, key))
        elif type(value) is int and (key in USUAL_NAMES if usual else "layer" in key.lower()):
            yield (*path, key), value


def _listings(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every ``(path, length)`` of a list of words that may name the layers' kinds, where no number counts them."""
    usual = any(name in config for name in USUAL_NAMES)
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _listings(value, (*path, key))
        elif not usual and "layer" in key and isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield (*path, key), len(value)


def _count_key(prefix: str, count: int, counts: list[tuple[tuple[str, ...], int]]) -> tuple[str, ...] | None:
    fitting = [path for path, value in counts if value == count and _may_count(prefix, path)]
    return min(fitting, key=lambda path: _rank(prefix, path), default=None)


def _may_count(prefix: str, path: tuple[str, ...]) -> bool:
    """Whether a key can be of a stack: a tower's section does not count layers of the text, nor the other way round."""
    own, section = _side(prefix), _side(".".join(path[:-1]))
    return section is None or section == own or (section == "text" and own is None)


def _side(text: str) -> str | None:
    """``text`` or ``tower``, as the words of a prefix or of a section say; ``None`` if they say neither."""
    if _TEXT & set(re.findall(r"[a-z]+", text.lower())):
        return "text"
    return "tower" if tower_of(text.lower()) is not None else None


def _rank(prefix: str, path: tuple[str, ...]) -> tuple[int, int, int, tuple[str, ...]]:
    """Sort key: words that disagree with the prefix, usual name, depth, alphabet."""
    own, telling = _stems(prefix), _stems(".".join(path))
    agreement = len(telling & own) - len(telling - own)
    usual = USUAL_NAMES.index(path[-1]) if path[-1] in USUAL_NAMES else len(USUAL_NAMES)
    return -agreement, usual, len(path), path


def _stems(text: str) -> set[str]:
    """First letters of the telling words, by which ``vision_config`` agrees with ``visual.blocks.``."""
    return {word[:3] for word in re.findall(r"[a-z]+", text.lower()) if word not in _NEUTRAL}
