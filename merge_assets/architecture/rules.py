"""Rules in a config that give a layer its role by its position: "every fourth layer attends to everything".

Where layers are stacked, repeated or removed, a layer's position changes and its role must not. A rule can tell the roles that
it gives, and find settings that give wanted ones: other numbers for the same rule, or the list of roles that overrides it.

Sources: the configuration classes of transformers 5 and the published ``config.json`` of the families named beside the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Level = Mapping[str, Any]
"""The section of a config that holds the layer count."""

Roles = list[Any]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        key: the setting that a message names.
        listed: the list that states the same roles one by one, ``None`` if the families have none.
        roles: what the rule gives every layer of a section with so many layers; ``None`` where it is not in force. Where
            ``listed`` is a list with an entry per layer, these are its entries.
        solve: settings that give wanted roles, ``None`` if there are none.
    """

    key: str
    listed: str | None
    roles: Callable[[Level, int], Roles | None]
    solve: Callable[[Roles], dict[str, Any] | None]


def _whole(level: Level, key: str, least: int = 1) -> int | None:
    value = level.get(key)
    return value if type(value) is int and value >= least else None


def _window_pattern(level: Level, count: int) -> Roles | None:
    """Gemma 3, Cohere 2: the last of every so many layers is full. EXAONE 4 writes ``LLLG`` instead of 4."""
    pattern = level.get("sliding_window_pattern", level.get("_sliding_window_pattern"))
    if isinstance(pattern, str) and pattern:
        return ["sliding_attention" if pattern[i % len(pattern)] == "L" else "full_attention" for i in range(count)]
    if type(pattern) is not int or pattern < 1:
        return None
    return ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(count)]


def _global_interval(level: Level, count: int) -> Roles | None:
    """ModernBERT."""
    step = _whole(level, "global_attn_every_n_layers")
    return None if step is None else ["sliding_attention" if i % step else "full_attention" for i in range(count)]


def _full_interval(level: Level, count: int) -> Roles | None:
    """Qwen3-Next."""
    step = _whole(level, "full_attention_interval")
    return None if step is None else ["linear_attention" if (i + 1) % step else "full_attention" for i in range(count)]


def _window_start(level: Level, count: int) -> Roles | None:
    """Qwen 2: whether a layer is above ``max_window_layers``, which matters only where windows are used."""
    first = _whole(level, "max_window_layers", 0)
    if first is None or not level.get("use_sliding_window") or level.get("layer_types"):
        return None
    return [i >= first for i in range(count)]


def _no_rope_interval(level: Level, count: int) -> Roles | None:
    """SmolLM3, Llama 4, whose files may hold an empty list for the default interval of 4."""
    step = _whole(level, "no_rope_layer_interval") or (4 if "no_rope_layers" in level else None)
    return None if step is None else [int((i + 1) % step != 0) for i in range(count)]


def _expert_step(level: Level, count: int) -> Roles | None:
    """Llama 4."""
    step = _whole(level, "interleave_moe_layer_step")
    return None if step is None else [(i + 1) % step == 0 for i in range(count)]


def _expert_numbers(roles: Roles) -> dict[str, Any]:
    return {"moe_layers": [i for i, moe in enumerate(roles) if moe]}


def _dense_first(level: Level, count: int) -> Roles | None:
    """DeepSeek, GLM 4.5, Kimi: dense layers, then experts, every one or every so many."""
    first = _whole(level, "first_k_dense_replace", 0)
    every = level.get("moe_layer_freq", 1)
    if first is None or type(every) is not int or every < 1:
        return None
    return ["experts" if i >= first and i % every == 0 else "dense" for i in range(count)]


def _solve_dense_first(roles: Roles) -> dict[str, Any] | None:
    first = roles.index("experts") if "experts" in roles else len(roles)
    return None if "dense" in roles[first:] else {"first_k_dense_replace": first}


def _sparse_step(level: Level, count: int) -> Roles | None:
    """Qwen-MoE: every so many layers has experts unless it is named. Switch Transformers use the key otherwise."""
    step = _whole(level, "decoder_sparse_step")
    if step is None or "encoder_sparse_step" in level:
        return None
    dense = level.get("mlp_only_layers") or ()
    return ["dense" if i in dense or (i + 1) % step else "experts" for i in range(count)]


def _solve_sparse_step(roles: Roles) -> dict[str, Any]:
    return {"decoder_sparse_step": 1, "mlp_only_layers": [i for i, role in enumerate(roles) if role == "dense"]}


def _leading(key: str) -> Rule:
    """LFM2-MoE, AFMoE: the first so many layers are different."""

    def roles(level: Level, count: int) -> Roles | None:
        number = _whole(level, key, 0)
        return None if number is None else [i < number for i in range(count)]

    def solve(roles: Roles) -> dict[str, Any] | None:
        number = sum(roles)
        return {key: number} if all(roles[:number]) else None

    return Rule(key, None, roles, solve)


def _trailing(key: str) -> Rule:
    """Gemma 3n: the last so many layers are different."""

    def roles(level: Level, count: int) -> Roles | None:
        number = _whole(level, key, 0)
        return None if number is None else [i >= count - number for i in range(count)]

    def solve(roles: Roles) -> dict[str, Any] | None:
        number = sum(roles)
        return {key: number} if all(roles[len(roles) - number :]) else None

    return Rule(key, None, roles, solve)


def _periodic(period: str, offset: str) -> Rule:
    """Jamba: one layer of every period, at an offset."""

    def roles(level: Level, count: int) -> Roles | None:
        step, first = _whole(level, period), _whole(level, offset, 0)
        return None if step is None or first is None else [(i % step == first, step) for i in range(count)]

    def solve(roles: Roles) -> dict[str, Any] | None:
        steps = {step for _, step in roles}
        step = steps.pop()
        if steps:
            return None
        chosen = [is_it for is_it, _ in roles]
        fitting = (first for first in range(step) if chosen == [i % step == first for i in range(len(chosen))])
        return next(({offset: first} for first in fitting), None)

    return Rule(period, None, roles, solve)


def _expert_span(level: Level, count: int) -> Roles | None:
    """ERNIE 4.5: experts from one layer to another, at an interval."""
    first, step = _whole(level, "moe_layer_start_index", 0), _whole(level, "moe_layer_interval")
    last = level.get("moe_layer_end_index", -1)
    if first is None or step is None or type(last) is not int:
        return None
    last = count - 1 if last < 0 else last
    return ["experts" if (i + 1) % step == 0 and first <= i <= last else "dense" for i in range(count)]


def _solve_expert_span(roles: Roles) -> dict[str, Any] | None:
    moe = [i for i, role in enumerate(roles) if role == "experts"]
    if not moe or moe != list(range(moe[0], moe[-1] + 1)):
        return None
    return {"moe_layer_start_index": moe[0], "moe_layer_end_index": moe[-1], "moe_layer_interval": 1}


def _cycle(level: Level, count: int) -> Roles | None:
    """RecurrentGemma: a short list that is gone through again and again."""
    cycle = level.get("block_types")
    return [cycle[i % len(cycle)] for i in range(count)] if isinstance(cycle, list) and cycle else None


def _listing(key: str) -> Callable[[Roles], dict[str, Any]]:
    return lambda roles: {key: list(roles)}


RULES: Sequence[Rule] = (
    Rule("sliding_window_pattern", "layer_types", _window_pattern, _listing("layer_types")),
    Rule("global_attn_every_n_layers", "layer_types", _global_interval, _listing("layer_types")),
    Rule("full_attention_interval", "layer_types", _full_interval, _listing("layer_types")),
    Rule("no_rope_layer_interval", "no_rope_layers", _no_rope_interval, _listing("no_rope_layers")),
    Rule("interleave_moe_layer_step", "moe_layers", _expert_step, _expert_numbers),
    Rule(
        "max_window_layers",
        None,
        _window_start,
        lambda roles: {"max_window_layers": len(roles) - sum(roles)} if sorted(roles) == roles else None,
    ),
    Rule("first_k_dense_replace", None, _dense_first, _solve_dense_first),
    Rule("decoder_sparse_step", None, _sparse_step, _solve_sparse_step),
    Rule("moe_layer_start_index", None, _expert_span, _solve_expert_span),
    Rule("block_types", None, _cycle, _listing("block_types")),
    _leading("num_dense_layers"),
    _trailing("num_kv_shared_layers"),
    _periodic("attn_layer_period", "attn_layer_offset"),
    _periodic("expert_layer_period", "expert_layer_offset"),
)


def overridden(rule: Rule, level: Level) -> bool:
    """Whether a list in the section says one by one what the rule would say."""
    listed = level.get(rule.listed) if rule.listed is not None else None
    # Llama 4 writes an empty list of layers without position embeddings where it means the rule.
    return isinstance(listed, list) and (bool(listed) or rule.listed != "no_rope_layers")


def stated_roles(rule: Rule, level: Level, count: int) -> Roles | None:
    """The roles of all layers of a section, from its list or else by the rule; ``None`` if it says nothing of them."""
    if not overridden(rule, level):
        return rule.roles(level, count)
    entries: Roles = level[rule.listed or ""]
    if rule.listed == "moe_layers":
        return [i in entries for i in range(count)]
    return entries if len(entries) == count else None
