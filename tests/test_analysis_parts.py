"""Contract: every matrix of the layers is scored once, under the name it would have if it were stored alone.

Fused layouts are written here as the models write them (reshape and slice, from their published forward passes), and
the spectra must be those of the separate matrices.
"""

import math

import numpy as np
import pytest

from merge_assets.analysis.parts import select
from merge_assets.analysis.run import analyse
from merge_assets.errors import AnalysisError
from tests.analysis_support import llama, write_checkpoint

HIDDEN, HEADS, GROUPS, WIDTH = 24, 6, 2, 4
BASE = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": 2}
RNG = np.random.default_rng(0)
Q = RNG.standard_normal((HEADS * WIDTH, HIDDEN))
K, V = (RNG.standard_normal((GROUPS * WIDTH, HIDDEN)) for _ in range(2))
K_ALL, V_ALL = (RNG.standard_normal((HEADS * WIDTH, HIDDEN)) for _ in range(2))
GATE, UP = (RNG.standard_normal((20, HIDDEN)) for _ in range(2))


def per_head(*parts):
    """(heads, 3, width) as GPT-NeoX and BLOOM reshape it."""
    return np.stack([p.reshape(HEADS, WIDTH, HIDDEN) for p in parts], axis=1).reshape(-1, HIDDEN)


def per_group(q, k, v):
    """(groups, share + 2, width) as InternLM2 and the new Falcon reshape it."""
    share = HEADS // GROUPS
    blocks = [q.reshape(GROUPS, share, WIDTH, HIDDEN), *(p.reshape(GROUPS, 1, WIDTH, HIDDEN) for p in (k, v))]
    return np.concatenate(blocks, axis=1).reshape(-1, HIDDEN)


def two_layers(tmp_path, name, value, config):
    tensors = {f"model.layers.{layer}.{name}": value for layer in range(2)}
    return write_checkpoint(tmp_path, tensors, {**BASE, **config})


ATTENTION = [
    ("phi3", "self_attn.qkv_proj.weight", np.concatenate([Q, K, V]), {"num_key_value_heads": GROUPS}, (Q, K, V)),
    ("phi3 with head_dim", "self_attn.qkv_proj.weight", np.concatenate([Q, K, V]),
     {"num_key_value_heads": GROUPS, "head_dim": WIDTH, "model_type": "phi3"}, (Q, K, V)),
    ("gpt2", "attn.c_attn.weight", np.concatenate([Q, K_ALL, V_ALL]).T, {"model_type": "gpt2"}, (Q, K_ALL, V_ALL)),
    ("gpt_neox", "attention.query_key_value.weight", per_head(Q, K_ALL, V_ALL), {"model_type": "gpt_neox"},
     (Q, K_ALL, V_ALL)),
    ("bloom", "self_attention.query_key_value.weight", per_head(Q, K_ALL, V_ALL), {"model_type": "bloom"},
     (Q, K_ALL, V_ALL)),
    ("falcon 40b", "self_attention.query_key_value.weight", per_group(Q, K, V),
     {"model_type": "falcon", "new_decoder_architecture": True, "multi_query": True, "num_kv_heads": GROUPS},
     (Q, K, V)),
    ("falcon 7b", "self_attention.query_key_value.weight", np.concatenate([Q, K[:WIDTH], V[:WIDTH]]),
     {"model_type": "falcon", "multi_query": True}, (Q, K[:WIDTH], V[:WIDTH])),
    ("internlm2", "attention.wqkv.weight", per_group(Q, K, V),
     {"model_type": "internlm2", "num_key_value_heads": GROUPS}, (Q, K, V)),
    ("baichuan", "self_attn.W_pack.weight", np.concatenate([Q, K_ALL, V_ALL]), {"model_type": "baichuan"},
     (Q, K_ALL, V_ALL)),
    ("chatglm", "self_attention.query_key_value.weight", np.concatenate([Q, K, V]),
     {"model_type": "chatglm", "multi_query_group_num": GROUPS}, (Q, K, V)),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "fused", "config", "parts"), ATTENTION, ids=[case[0] for case in ATTENTION])
def test_fused_attention_is_scored_as_query_key_and_value(tmp_path, family, name, fused, config, parts):
    analysis = analyse(two_layers(tmp_path, name, fused, config), workers=1)
    home = name.rsplit(".", 2)[0]
    assert [row["module"] for row in analysis.rows[:3]] == [f"{home}.{leaf}_proj" for leaf in "qkv"]
    assert not analysis.notes
    for row, matrix in zip(analysis.rows, 2 * parts, strict=True):
        assert row["tensor"] == f"model.layers.{row['layer']}.{row['module']}.weight"
        assert row["source"] == f"model.layers.{row['layer']}.{name}"
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(analysis.spectra[row["tensor"]], expected, rtol=1e-9)


EXPERTS = 3
GATES, UPS = (RNG.standard_normal((EXPERTS, 20, HIDDEN)) for _ in range(2))
GATED = [
    ("phi3", "mlp.gate_up_proj.weight", np.concatenate([GATE, UP]), {"model_type": "phi3"}, [GATE], [UP]),
    ("mixtral", "mlp.experts.gate_up_proj", np.concatenate([GATES, UPS], axis=1), {"model_type": "mixtral"}, GATES, UPS),
    ("llama4", "feed_forward.experts.gate_up_proj",
     np.concatenate([GATES, UPS], axis=1).transpose(0, 2, 1), {"model_type": "llama4_text"}, GATES, UPS),
    ("gpt_oss", "mlp.experts.gate_up_proj",
     np.stack([GATES, UPS], axis=2).reshape(EXPERTS, 40, HIDDEN).transpose(0, 2, 1), {"model_type": "gpt_oss"}, GATES, UPS),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "fused", "config", "gates", "ups"), GATED, ids=[case[0] for case in GATED])
def test_fused_gate_and_up_are_scored_apart(tmp_path, family, name, fused, config, gates, ups):
    analysis = analyse(two_layers(tmp_path, name, fused, config), workers=1)
    assert len(analysis.rows) == 2 * (len(gates) + len(ups))
    home = name.removesuffix(".weight").removesuffix(".gate_up_proj")
    for module, matrices in (("gate_proj", gates), ("up_proj", ups)):
        rows = [row for row in analysis.rows if row["module"] == f"{home}.{module}" and row["layer"] == 1]
        assert [row["expert"] for row in rows] == (list(range(EXPERTS)) if len(matrices) > 1 else [None])
        for row, matrix in zip(rows, matrices, strict=True):
            number = "" if row["expert"] is None else f".{row['expert']}"
            assert row["tensor"].removesuffix(".weight") == f"model.layers.1.{home}{number}.{module}"
            expected = np.linalg.svd(matrix, compute_uv=False)
            np.testing.assert_allclose(analysis.spectra[row["tensor"]], expected, rtol=1e-9)


def test_stored_experts_keep_their_names_and_share_a_module(tmp_path):
    tensors = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight": RNG.standard_normal((8, 12))
        for layer in range(2)
        for expert in range(2)
    }
    selection = select(write_checkpoint(tmp_path, tensors, BASE), None)
    assert [part.name for part in selection.parts] == sorted(tensors)
    assert {(part.module, part.layer, part.expert) for part in selection.parts} == {
        ("block_sparse_moe.experts.w1", layer, expert) for layer in range(2) for expert in range(2)
    }


def test_experts_stacked_by_rows_are_taken_apart(tmp_path):
    stacked = np.concatenate(list(GATES))
    config = {"ffn_config": {"moe_num_experts": EXPERTS, "ffn_hidden_size": 20}, "d_model": HIDDEN}
    analysis = analyse(two_layers(tmp_path, "ffn.experts.mlp.w1", stacked, config), workers=1)
    assert [row["tensor"] for row in analysis.rows[:EXPERTS]] == [
        f"model.layers.0.ffn.experts.mlp.experts.{expert}.w1" for expert in range(EXPERTS)
    ]
    for row, matrix in zip(analysis.rows[:EXPERTS], GATES, strict=True):
        np.testing.assert_allclose(analysis.spectra[row["tensor"]], np.linalg.svd(matrix)[1], rtol=1e-9)


def test_a_fused_tensor_of_unknown_layout_is_scored_whole_and_noted(tmp_path):
    fused = RNG.standard_normal((3 * HIDDEN, HIDDEN))
    checkpoint = two_layers(tmp_path, "attn.query_key_value.weight", fused, {"model_type": "new_thing"})
    selection = select(checkpoint, None)
    assert [part.name for part in selection.parts] == list(checkpoint.tensors)
    note = selection.notes["model.layers.0.attn.query_key_value.weight"]
    assert "scored whole" in note and "[72, 24]" in note


def test_all_matrices_of_the_layers_and_nothing_else_by_default(tmp_path):
    tensors, config = llama(2)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(32)
    selection = select(write_checkpoint(tmp_path, tensors, config), None)
    expected = {name for name, value in tensors.items() if value.ndim == 2 and ".layers." in name}
    assert {part.name for part in selection.parts} == expected
    assert all(part.whole and part.stack == "model.layers." for part in selection.parts)


@pytest.mark.parametrize(
    ("modules", "count"),
    [
        (["v_proj"], 3),
        (["self_attn.v_proj", "mlp."], 12),
        (["embed_tokens"], 1),
        (["layers.1."], 7),
    ],
)
def test_modules_choose_by_substring(tmp_path, modules, count):
    tensors, config = llama(3)
    selection = select(write_checkpoint(tmp_path, tensors, config), modules)
    assert len(selection.parts) == count
    assert all(any(text in part.name for text in modules) for part in selection.parts)


def test_a_part_of_a_fused_tensor_can_be_chosen_alone(tmp_path):
    checkpoint = two_layers(
        tmp_path, "self_attn.qkv_proj.weight", np.concatenate([Q, K, V]), {"num_key_value_heads": GROUPS}
    )
    assert [part.module for part in select(checkpoint, ["v_proj"]).parts] == ["self_attn.v_proj"] * 2
    assert len(select(checkpoint, ["qkv_proj"]).parts) == 6


def test_a_module_that_matches_nothing_is_an_error_that_lists_what_there_is(tmp_path):
    tensors, config = llama(2)
    checkpoint = write_checkpoint(tmp_path, tensors, config)
    with pytest.raises(AnalysisError, match=r"matches 'v_porj'; .*mlp.up_proj.*self_attn.v_proj"):
        select(checkpoint, ["q_proj", "v_porj"])


def test_what_cannot_be_scored_is_noted_with_the_reason(tmp_path):
    tensors, config = llama(2)
    tensors["model.layers.0.mlp.shared_expert_gate.weight"] = np.ones((1, 32))
    tensors["model.layers.0.mixer.conv1d.weight"] = np.ones((8, 2, 4))
    notes = select(write_checkpoint(tmp_path, tensors, config), None).notes
    assert "vector" in notes["model.layers.0.mlp.shared_expert_gate.weight"]
    assert "neither a matrix nor a stack of experts" in notes["model.layers.0.mixer.conv1d.weight"]


def test_weights_in_types_that_need_a_scale_are_noted_not_scored(tmp_path):
    import torch

    tensors, config = llama(2)
    checkpoint = write_checkpoint(tmp_path, tensors, config, dtype=torch.float8_e4m3fn)
    with pytest.raises(AnalysisError, match="no two-dimensional weight"):
        select(checkpoint, None)


def test_the_parts_of_a_tensor_cover_it_without_overlap(tmp_path):
    for family, name, fused, config, _ in ATTENTION:
        checkpoint = two_layers(tmp_path / family.replace(" ", "-"), name, fused, config)
        parts = [part for part in select(checkpoint, None).parts if part.layer == 0]
        covered = [i for part in parts for span in part.spans for i in range(*span)]
        assert sorted(covered) == list(range(fused.shape[parts[0].axis])), family
        assert sum(math.prod(part.shape) for part in parts) == fused.size
