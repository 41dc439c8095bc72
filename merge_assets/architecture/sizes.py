"""The sizes of a config that fused layouts depend on, under the names that published configs give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from merge_assets.architecture.stacks import LayerStack


class Sizes:
    """Sizes of the layers of a stack.

    Args:
        config: the content of ``config.json``.
        stack: whose layers; the level of the config that counts them is read, and the sections in it. ``None``: the whole
            config.
    """

    def __init__(self, config: Mapping[str, Any], stack: LayerStack | None) -> None:
        path = stack.config_key[:-1] if stack and stack.config_key else ()
        level: Any = config
        for key in path:
            level = level[key]
        nested = [value for value in level.values() if isinstance(value, Mapping)]
        self._levels: list[Mapping[str, Any]] = [level, *nested]

    def _numbers(self, *names: str) -> Iterator[int]:
        for level in self._levels:
            for name in names:
                value = level.get(name)
                if type(value) is int and value > 0:
                    yield value

    def flag(self, name: str) -> bool:
        """Whether a setting is on."""
        return self._levels[0].get(name) is True

    @property
    def model_type(self) -> str:
        """The family; empty if the config does not say."""
        return next((str(level["model_type"]) for level in self._levels if level.get("model_type")), "")

    @property
    def hidden(self) -> int:
        """Width of the model; like the others 0 if the config does not say."""
        return next(self._numbers("hidden_size", "n_embd", "d_model"), 0)

    @property
    def heads(self) -> int:
        """Heads of the query."""
        return next(self._numbers("num_attention_heads", "n_head", "n_heads", "num_heads"), 0)

    @property
    def key_heads(self) -> int:
        """Heads of the key, and of the value."""
        multi_query = self.flag("multi_query") and not self.flag("new_decoder_architecture")
        named = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads", "multi_query_group_num")
        return 1 if multi_query else next(self._numbers(*named), self.heads)

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return next(self._numbers("head_dim", "kv_channels"), self.hidden // self.heads)

    @property
    def experts(self) -> set[int]:
        """Every number that may be that of the experts of a layer."""
        return set(self._numbers("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer, where it tells a layout."""
        return next(self._numbers("ffn_hidden_size"), 0)

    @property
    def layer_input(self) -> int:
        """Width of what every layer is given of a token besides the states."""
        return next(self._numbers("hidden_size_per_layer_input"), 0)
