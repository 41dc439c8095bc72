"""Fused layouts, written as the models write them: reshape and slice, from their published forward passes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

HIDDEN, HEADS, GROUPS, WIDTH, WIDE = 24, 6, 2, 4, 8
LLAMA = {"hidden_size": HIDDEN, "num_attention_heads": HEADS}
GPT2 = {"n_embd": HIDDEN, "n_head": HEADS}
BLOOM = {"hidden_size": HIDDEN, "n_head": HEADS}
MPT = {"d_model": HIDDEN, "n_heads": HEADS}
TOWER = {"hidden_size": HIDDEN, "num_heads": HEADS}
RNG = np.random.default_rng(0)
Q, K_ALL, V_ALL = (RNG.standard_normal((HEADS * WIDTH, HIDDEN)) for _ in range(3))
K, V = (RNG.standard_normal((GROUPS * WIDTH, HIDDEN)) for _ in range(2))
K_ONE, V_ONE = (RNG.standard_normal((WIDTH, HIDDEN)) for _ in range(2))
Q_WIDE, K_ALL_WIDE, V_ALL_WIDE = (RNG.standard_normal((HEADS * WIDE, HIDDEN)) for _ in range(3))
K_WIDE, V_WIDE = (RNG.standard_normal((GROUPS * WIDE, HIDDEN)) for _ in range(2))
GATE, UP = (RNG.standard_normal((20, HIDDEN)) for _ in range(2))

Config = Mapping[str, object]
Three = tuple[Doubles, Doubles, Doubles]
SeveralOrOne = list[Doubles] | Doubles


def in_turn(*parts: Doubles) -> Doubles:
    """One after the other, as most models slice it."""
    return np.concatenate(parts)


def per_head(*parts: Doubles) -> Doubles:
    """(heads, 3, width) as GPT-NeoX and BLOOM reshape it."""
    return np.stack([p.reshape(HEADS, WIDTH, HIDDEN) for p in parts], axis=1).reshape(-1, HIDDEN)


def per_group(q: Doubles, k: Doubles, v: Doubles) -> Doubles:
    """(groups, share + 2, width) as InternLM2 and the new Falcon reshape it."""
    share = HEADS // GROUPS
    blocks = [q.reshape(GROUPS, share, WIDTH, HIDDEN), *(p.reshape(GROUPS, 1, WIDTH, HIDDEN) for p in (k, v))]
    return np.concatenate(blocks, axis=1).reshape(-1, HIDDEN)


def of_family(family: str, config: Config) -> Config:
    """The config with its ``model_type``: the family up to a comma."""
    return {"model_type": family.partition(",")[0], **config}


FUSED, OLD_FUSED = "self_attention.query_key_value.weight", "attention.query_key_value.weight"
SHARED, ALL, ONE = (Q, K, V), (Q, K_ALL, V_ALL), (Q, K_ONE, V_ONE)
SHARED_WIDE, ALL_WIDE = (Q_WIDE, K_WIDE, V_WIDE), (Q_WIDE, K_ALL_WIDE, V_ALL_WIDE)
NEW_FALCON = {"new_decoder_architecture": True, "multi_query": True, "num_kv_heads": GROUPS}
CHATGLM2 = {"multi_query_attention": True, "multi_query_group_num": GROUPS, "kv_channels": WIDE}
ATTENTION: list[tuple[str, str, Doubles, Config, Three]] = [
    ("phi3", "self_attn.qkv_proj.weight", in_turn(*SHARED), LLAMA | {"num_key_value_heads": GROUPS}, SHARED),
    ("phi3, wide heads", "self_attn.qkv_proj.weight", in_turn(*SHARED_WIDE),
     LLAMA | {"num_key_value_heads": GROUPS, "head_dim": WIDE}, SHARED_WIDE),
    ("phi3, one key", "self_attn.qkv_proj.weight", in_turn(*ONE), LLAMA | {"num_key_value_heads": 1}, ONE),
    ("phi3, sizes left at zero", "self_attn.qkv_proj.weight", in_turn(*ALL),
     LLAMA | {"num_key_value_heads": 0, "head_dim": 0}, ALL),
    ("gpt2", "attn.c_attn.weight", in_turn(*ALL).T, GPT2, ALL),
    ("qwen", "attn.c_attn.weight", in_turn(*ALL_WIDE), LLAMA | {"kv_channels": WIDE}, ALL_WIDE),
    ("gpt_bigcode", "attn.c_attn.weight", in_turn(*ONE), GPT2 | {"multi_query": True}, ONE),
    ("gpt_bigcode, many keys", "attn.c_attn.weight", per_head(*ALL), GPT2 | {"multi_query": False}, ALL),
    ("gpt_neox", OLD_FUSED, per_head(*ALL), LLAMA, ALL),
    ("gpt_neox_japanese", OLD_FUSED, per_head(*ALL), LLAMA, ALL),
    ("persimmon", "self_attn.query_key_value.weight", per_head(*ALL), LLAMA, ALL),
    ("bloom", FUSED, per_head(*ALL), BLOOM, ALL),
    ("falcon, 40b", FUSED, per_group(*SHARED), LLAMA | NEW_FALCON, SHARED),
    ("falcon, 7b", FUSED, in_turn(*ONE), LLAMA | {"multi_query": True}, ONE),
    ("falcon, rw", FUSED, per_head(*ALL), LLAMA | {"multi_query": False}, ALL),
    ("RefinedWeb", FUSED, per_group(*SHARED), BLOOM | {"n_head_kv": GROUPS}, SHARED),
    ("RefinedWebModel", FUSED, in_turn(*ONE), BLOOM | {"multi_query": True}, ONE),
    ("internlm2", "attention.wqkv.weight", per_group(*SHARED), LLAMA | {"num_key_value_heads": GROUPS}, SHARED),
    ("baichuan", "self_attn.W_pack.weight", in_turn(*ALL), LLAMA, ALL),
    ("chatglm, second", FUSED, in_turn(*SHARED_WIDE), LLAMA | CHATGLM2, SHARED_WIDE),
    ("chatglm, first", OLD_FUSED, per_head(*ALL), LLAMA | {"inner_hidden_size": 4 * HIDDEN}, ALL),
    ("glm", OLD_FUSED, in_turn(*ALL), LLAMA, ALL),
    ("mpt", "attn.Wqkv.weight", in_turn(*ALL), MPT | {"attn_config": {"attn_type": "multihead_attention"}}, ALL),
    ("dbrx", "norm_attn_norm.attn.Wqkv.weight", in_turn(*SHARED),
     MPT | {"attn_config": {"kv_n_heads": GROUPS, "model_type": ""}}, SHARED),
    ("modernbert", "attn.Wqkv.weight", in_turn(*ALL), LLAMA, ALL),
    ("qwen2_5_vl", "attn.qkv.weight", in_turn(*ALL), TOWER, ALL),
    ("torch.nn.MultiheadAttention", "self_attn.in_proj_weight", in_turn(*ALL), LLAMA, ALL),
]  # fmt: skip
"""Family (and which of it), name in a layer, what is stored there, the sizes in the config, and query, key and value."""


EXPERTS = 3
GATES, UPS = (RNG.standard_normal((EXPERTS, 20, HIDDEN)) for _ in range(2))
NARROW, NARROW_UPS = (RNG.standard_normal((EXPERTS, HIDDEN // 2, HIDDEN)) for _ in range(2))
"""Of these the two together are square, so that the shape does not tell rows from columns."""


def halves(gate: Doubles, up: Doubles) -> Doubles:
    """All of the gate, then all of the other, as ``chunk(2)`` takes them apart."""
    return np.concatenate([gate, up], axis=-2)


def interleaved(gates: Doubles, ups: Doubles) -> Doubles:
    """As ``[::2]`` and ``[1::2]`` take them apart."""
    return np.stack([gates, ups], axis=2).reshape(len(gates), -1, HIDDEN)


def columns(stacked: Doubles) -> Doubles:
    """Weights that stand on the right of the product."""
    return stacked.transpose(0, 2, 1)


ROUTED = "mlp.experts.gate_up_proj"
GATED: list[tuple[str, str, Doubles, Config, SeveralOrOne, SeveralOrOne]] = [
    ("phi3", "mlp.gate_up_proj.weight", halves(GATE, UP), {}, [GATE], [UP]),
    ("chatglm", "mlp.dense_h_to_4h.weight", halves(GATE, UP), {"ffn_hidden_size": 20}, [GATE], [UP]),
    ("granitemoeshared", "shared_mlp.input_linear.weight", halves(GATE, UP), {}, [GATE], [UP]),
    ("mixtral", ROUTED, halves(GATES, UPS), {}, GATES, UPS),
    ("mixtral, narrow", ROUTED, halves(NARROW, NARROW_UPS), {}, NARROW, NARROW_UPS),
    ("qwen3_vl_moe", ROUTED, columns(halves(GATES, UPS)), {}, GATES, UPS),
    ("llama4_text", "feed_forward.experts.gate_up_proj", columns(halves(GATES, UPS)), {}, GATES, UPS),
    ("llama4_text, narrow", "feed_forward.experts.gate_up_proj", columns(halves(NARROW, NARROW_UPS)), {},
     NARROW, NARROW_UPS),
    ("gpt_oss", ROUTED, columns(interleaved(GATES, UPS)), {}, GATES, UPS),
    ("gpt_oss, narrow", ROUTED, columns(interleaved(NARROW, NARROW_UPS)), {}, NARROW, NARROW_UPS),
]  # fmt: skip
