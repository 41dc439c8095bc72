"""Rewrite ``config.json`` so that it agrees with changed weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from merge_assets.architecture.rules import RULES, Rule, overridden, stated_roles
from merge_assets.architecture.stacks import USUAL_NAMES, LayerStack, config_value
from merge_assets.errors import CheckpointError

DTYPE_KEYS = ("dtype", "torch_dtype")
"""Where configs name the weights' dtype; the second is the older one."""

_NOT_PER_LAYER = ("architectures", "_token_id", "_tokens", "_token_ids")
_TELLING = re.compile(r"layer|type|intermediate|pattern|block|window|ffn|rope|moe|mlp|attn|attention|head|expert")
"""In keys of lists that hold one entry per layer. A list longer than this many entries needs no such word:"""
_FEW = 4
_PREDICTIONS = re.compile(r"^(?=.*layers)(?:.*_)?(?:nextn|mtp)(?:_|$)")
_NUMBERS = re.compile(r"layer|idx|ind(?:ex|ic)es")

Path = tuple[str, ...]

LayerOrigin = tuple[Mapping[str, Any], int]
"""The config of the model that a layer comes from, and the layer's number there."""


def rewrite_config(
    config: Mapping[str, Any],
    stack: LayerStack | None,
    layers: Sequence[LayerOrigin],
    *,
    dtype: str | None,
    tied: bool | None,
    vocab_size: int | None = None,
    others: Sequence[tuple[LayerStack, Sequence[LayerOrigin]]] = (),
) -> dict[str, Any]:
    """A copy of a config for a model whose stacks consist of other layers.

    At the config level that holds a stack's layer count, these follow the layers: lists with one entry per layer
    (``layer_types``), strings with one letter per layer (``hybrid_override_pattern``), lists of layer numbers
    (``mlp_only_layers``) and mappings of them (``per_layer_config``), other names of the same count, and rules that give
    layers a role by their position (``first_k_dense_replace``; see :mod:`merge_assets.architecture.rules`). Whole numbers that
    only happen to equal the layer count stay as they are.

    Args:
        config: the donor's config; not changed.
        stack: the donor's main stack, ``None`` if it has none.
        layers: where each new layer of it comes from, in order.
        dtype: torch name such as ``bfloat16`` of the new weights, ``None`` to keep what the config says.
        tied: new ``tie_word_embeddings``, ``None`` to keep it.
        vocab_size: new number of token rows, ``None`` to keep it.
        others: the donor's other stacks, each with its layers.

    Raises:
        CheckpointError: if a layer count, a per-layer list or a rule cannot be made to agree.
    """
    new = copy.deepcopy(dict(config))
    stacks = [*([] if stack is None else [(stack, layers)]), *others]
    counted = _counted(stacks)
    for one, origins in stacks:
        if one.config_key is not None:
            _Section(new, config, one, origins).rewrite(counted)
        elif len(origins) != one.count:
            raise CheckpointError(
                f"config.json: no key holds the {one.count} layers of {one.prefix}*, so {len(origins)} layers cannot "
                "be written; add the architecture's layer count, such as num_hidden_layers"
            )
    if dtype is not None:
        set_everywhere(new, DTYPE_KEYS, dtype, default="dtype" if _is_recent(config) else "torch_dtype")
    if tied is not None:
        set_everywhere(new, ("tie_word_embeddings",), tied, default="tie_word_embeddings")
    if vocab_size is not None:
        _set_vocabulary(new, stack, vocab_size)
    return new


def _counted(stacks: Sequence[tuple[LayerStack, Sequence[LayerOrigin]]]) -> Collection[Path]:
    """The keys that hold the stacks' layer counts; stacks that share one must have equally many layers."""
    found: dict[Path, tuple[LayerStack, int]] = {}
    for stack, origins in stacks:
        if stack.config_key is None:
            continue
        first, count = found.setdefault(stack.config_key, (stack, len(origins)))
        if count != len(origins):
            raise CheckpointError(
                f"config.json: {'.'.join(stack.config_key)} is the layer count of {first.prefix}* and of {stack.prefix}*, "
                f"which would have {count} and {len(origins)} layers; give both equally many"
            )
    return found.keys()


class _Section:
    """The level of a config that holds a stack's layer count, before and after."""

    def __init__(
        self, new: dict[str, Any], old: Mapping[str, Any], stack: LayerStack, layers: Sequence[LayerOrigin]
    ) -> None:
        *path, self.count_key = stack.config_key or ()
        self.path = tuple(path)
        self.level = _descend(new, self.path)
        self.old_level: Mapping[str, Any] = config_value(old, self.path) if path else old
        self.old_count = stack.count
        self.layers = layers

    def rewrite(self, counted: Collection[Path]) -> None:
        """Make everything at this level agree with the layers; ``counted`` are the keys that count layers of a stack."""
        for key, value in self.old_level.items():
            if _is_layer_numbers(key, value, self.old_count):
                self.level[key] = [j for j, origin in enumerate(self.layers) if self._listed(origin, key)]
            elif _is_by_number(key, value, self.old_count):
                self.level[key] = {
                    str(j): copy.deepcopy(entry)
                    for j, origin in enumerate(self.layers)
                    if (entry := self._numbered(origin, key)) is not None
                }
            elif _is_per_layer(key, value, self.old_count):
                entries = [self._entry(origin, key, value) for origin in self.layers]
                self.level[key] = "".join(entries) if isinstance(value, str) else entries
            elif self._repeats_the_count(key, value) and (*self.path, key) not in counted:
                self.level[key] = len(self.layers)
        if not isinstance(self.old_level[self.count_key], list):
            self.level[self.count_key] = len(self.layers)
        for rule in RULES:
            if not overridden(rule, self.old_level) and rule.roles(self.old_level, self.old_count) is not None:
                self._apply(rule)

    def _repeats_the_count(self, key: str, value: object) -> bool:
        """BART and Whisper write the encoder's count a second time, Mamba its own."""
        return key in USUAL_NAMES and value == self.old_count and "decoder" not in self.count_key

    def _apply(self, rule: Rule) -> None:
        """Let every layer keep the role that a rule gave it by its position."""
        wanted = [self._stated(rule, origin) for origin in self.layers]
        if rule.roles(self.level, len(self.layers)) == wanted:
            return
        solved = None if None in wanted else rule.solve(wanted)
        if solved is None:
            raise CheckpointError(
                f"config.json: {'.'.join((*self.path, rule.key))} gives layers their roles by position, and no value of it "
                f"describes these {len(wanted)} layers; choose slices in which layers of one role keep their places"
            )
        self.level.update(solved)

    def _stated(self, rule: Rule, origin: LayerOrigin) -> Any:
        """A layer's role by its own model's config, ``None`` if that does not say."""
        count = self._count(origin[0])
        roles = stated_roles(rule, self._of(origin[0]), count) if count is not None else None
        return roles[origin[1]] if roles is not None and origin[1] < len(roles) else None

    def _count(self, config: Mapping[str, Any]) -> int | None:
        """The layers that a model's config counts, or lists."""
        value = self._of(config).get(self.count_key)
        return len(value) if isinstance(value, list) else value if type(value) is int else None

    def _of(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The level of a model's config that describes these layers, which a model of text alone has elsewhere than one that
        sees."""
        own = config_value(config, self.path) if self.path else config
        if isinstance(own, Mapping) and self.count_key in own:
            return own
        found = [level for level in levels(dict(config)) if self.count_key in level]
        return next((level for level in found if "vocab_size" in level), own if isinstance(own, Mapping) else {})

    def _numbered(self, origin: LayerOrigin, key: str) -> Any:
        """What a mapping of layer numbers has for a layer, in its own model's config."""
        entries = self._of(origin[0]).get(key)
        return entries.get(str(origin[1]), entries.get(origin[1])) if isinstance(entries, Mapping) else None

    def _listed(self, origin: LayerOrigin, key: str) -> bool:
        numbers = self._of(origin[0]).get(key)
        if isinstance(numbers, list):
            return origin[1] in numbers
        return any(self._stated(rule, origin) is True for rule in RULES if rule.listed == key)

    def _entry(self, origin: LayerOrigin, key: str, donor: Sequence[Any]) -> Any:
        """One layer's entry from its own model's list or rule, or the donor's if that has the same for all layers."""
        source, layer = origin
        own = self._of(source).get(key)
        if isinstance(own, type(donor)) and len(own) == self._count(source):
            return copy.deepcopy(own[layer])
        stated = (self._stated(rule, origin) for rule in RULES if rule.listed == key)
        role = next((role for role in stated if role is not None), None)
        if role is not None:
            return role
        if all(entry == donor[0] for entry in donor):
            return copy.deepcopy(donor[0])
        raise CheckpointError(
            f"config.json: {'.'.join((*self.path, key))} has one entry per layer, but a model that gives layer {layer} "
            "has no such list of its own layers; add the list to that model's config.json"
        )


def _is_per_layer(key: str, value: object, count: int) -> bool:
    if isinstance(value, str):
        return "pattern" in key and len(value) == count
    if not isinstance(value, list) or len(value) != count or key.endswith(_NOT_PER_LAYER):
        return False
    return count > _FEW or _TELLING.search(key) is not None


def _is_by_number(key: str, value: object, count: int) -> bool:
    """Whether a mapping has entries for some layers, by their numbers."""
    if not isinstance(value, Mapping) or not value or not _TELLING.search(key):
        return False
    return all(str(number).isdecimal() and int(number) < count for number in value)


def _is_layer_numbers(key: str, value: object, count: int) -> bool:
    """Whether a list names layers by number instead of holding one entry per layer."""
    if not isinstance(value, list) or not _NUMBERS.search(key) or not all(type(item) is int for item in value):
        return False
    distinct = len(set(value)) == len(value) and all(0 <= item < count for item in value)
    # A list as long as the stack holds one entry per layer, unless it plainly counts the layers up.
    return distinct and (len(value) != count or (count > 2 and value == list(range(count))))


def _descend(config: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path:
        config = config[key]
    return config


def levels(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The config and its sections at any depth: ``text_config``, ``encoder``, …"""
    yield config
    for key, value in config.items():
        if isinstance(value, dict) and (key.endswith("_config") or "model_type" in value):
            yield from levels(value)


def set_everywhere(config: dict[str, Any], keys: Sequence[str], value: object, *, default: str) -> None:
    """Set the keys wherever they are; add ``default`` to the top level if that has none of them."""
    for level in levels(config):
        for key in keys:
            if key in level:
                level[key] = value
    if not any(key in config for key in keys):
        config[default] = value


def without_predictions(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that counts no layers of multi-token prediction."""
    new = copy.deepcopy(dict(config))
    for level in levels(new):
        level.update({key: 0 for key, value in level.items() if _PREDICTIONS.search(key) and type(value) is int})
    return new


def resize_vocabulary(config: dict[str, Any], old: int, new: int) -> None:
    """Set ``vocab_size`` wherever it has the old value."""
    for level in levels(config):
        if level.get("vocab_size") == old:
            level["vocab_size"] = new


def _set_vocabulary(config: dict[str, Any], stack: LayerStack | None, vocab_size: int) -> None:
    """Set the stack's own ``vocab_size``, and others that had the same value."""
    path = (stack.config_key if stack else None) or ("",)
    own = _descend(config, path[:-1])
    level = own if "vocab_size" in own else config
    old = level.get("vocab_size")
    if old is not None:
        resize_vocabulary(config, old, vocab_size)
    level["vocab_size"] = vocab_size


def _is_recent(config: Mapping[str, Any]) -> bool:
    """Whether the config was written by a transformers that writes ``dtype``."""
    major = str(config.get("transformers_version", "")).partition(".")[0]
    return major.isdigit() and int(major) >= 5
