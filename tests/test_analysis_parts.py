"""Contract: every matrix of the layers is scored once, under the name it would have if it were stored alone.

Fused layouts are written here as the models write them (reshape and slice, from their published forward passes), and
the spectra must be those of the separate matrices.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.analysis.parts import select
from merge_assets.analysis.run import analyse
from merge_assets.checkpoint import Checkpoint, open_checkpoint
from merge_assets.errors import AnalysisError
from tests import synthetic
from tests.analysis_support import Matrix, llama, write_checkpoint

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
Three = tuple[Matrix, Matrix, Matrix]
Matrices = list[Matrix] | Matrix


def in_turn(*parts: Matrix) -> Matrix:
    """One after the other, as most models slice it."""
    return np.concatenate(parts)


def per_head(*parts: Matrix) -> Matrix:
    """(heads, 3, width) as GPT-NeoX and BLOOM reshape it."""
    return np.stack([p.reshape(HEADS, WIDTH, HIDDEN) for p in parts], axis=1).reshape(-1, HIDDEN)


def per_group(q: Matrix, k: Matrix, v: Matrix) -> Matrix:
    """(groups, share + 2, width) as InternLM2 and the new Falcon reshape it."""
    share = HEADS // GROUPS
    blocks = [q.reshape(GROUPS, share, WIDTH, HIDDEN), *(p.reshape(GROUPS, 1, WIDTH, HIDDEN) for p in (k, v))]
    return np.concatenate(blocks, axis=1).reshape(-1, HIDDEN)


def two_layers(folder: Path, name: str, value: Matrix, config: Config) -> Checkpoint:
    tensors = {f"model.layers.{layer}.{name}": value for layer in range(2)}
    return write_checkpoint(folder, tensors, {"num_hidden_layers": 2, **config})


def of_family(family: str, config: Config) -> Config:
    """The config with its ``model_type``: the family up to a comma."""
    return {"model_type": family.partition(",")[0], **config}


FUSED, OLD_FUSED = "self_attention.query_key_value.weight", "attention.query_key_value.weight"
SHARED, ALL, ONE = (Q, K, V), (Q, K_ALL, V_ALL), (Q, K_ONE, V_ONE)
SHARED_WIDE, ALL_WIDE = (Q_WIDE, K_WIDE, V_WIDE), (Q_WIDE, K_ALL_WIDE, V_ALL_WIDE)
NEW_FALCON = {"new_decoder_architecture": True, "multi_query": True, "num_kv_heads": GROUPS}
CHATGLM2 = {"multi_query_attention": True, "multi_query_group_num": GROUPS, "kv_channels": WIDE}
ATTENTION: list[tuple[str, str, Matrix, Config, Three]] = [
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
"""Family (and which of it), name in a layer, what is stored there, the sizes in the config, the parts."""


@pytest.mark.parametrize(("family", "name", "fused", "config", "parts"), ATTENTION, ids=[case[0] for case in ATTENTION])
def test_fused_attention_is_scored_as_query_key_and_value(
    tmp_path: Path, family: str, name: str, fused: Matrix, config: Config, parts: Three
) -> None:
    analysis = analyse(two_layers(tmp_path, name, fused, of_family(family, config)), workers=1)
    home, ending = name.removesuffix(".weight").rpartition(".")[0], ".weight" if name.endswith(".weight") else ""
    assert [row["module"] for row in analysis.rows[:3]] == [f"{home}.{leaf}_proj" for leaf in "qkv"]
    assert not analysis.notes
    for row, matrix in zip(analysis.rows, 2 * parts, strict=True):
        assert row["tensor"] == f"model.layers.{row['layer']}.{row['module']}{ending}"
        assert row["source"] == f"model.layers.{row['layer']}.{name}"
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(analysis.spectra[row["tensor"]], expected, rtol=1e-9)


EXPERTS = 3
GATES, UPS = (RNG.standard_normal((EXPERTS, 20, HIDDEN)) for _ in range(2))
NARROW, NARROW_UPS = (RNG.standard_normal((EXPERTS, HIDDEN // 2, HIDDEN)) for _ in range(2))
"""Of these the two together are square, so that the shape does not tell rows from columns."""


def halves(gate: Matrix, up: Matrix) -> Matrix:
    """All of the gate, then all of the other, as ``chunk(2)`` takes them apart."""
    return np.concatenate([gate, up], axis=-2)


def interleaved(gates: Matrix, ups: Matrix) -> Matrix:
    """As ``[::2]`` and ``[1::2]`` take them apart."""
    return np.stack([gates, ups], axis=2).reshape(len(gates), -1, HIDDEN)


def columns(stacked: Matrix) -> Matrix:
    """Weights that stand on the right of the product."""
    return stacked.transpose(0, 2, 1)


ROUTED = "mlp.experts.gate_up_proj"
GATED: list[tuple[str, str, Matrix, Config, Matrices, Matrices]] = [
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


@pytest.mark.parametrize(("family", "name", "fused", "config", "gates", "ups"), GATED, ids=[case[0] for case in GATED])
def test_fused_gate_and_up_are_scored_apart(
    tmp_path: Path,
    family: str,
    name: str,
    fused: Matrix,
    config: Config,
    gates: Matrices,
    ups: Matrices,
) -> None:
    known = of_family(family, {"hidden_size": HIDDEN, **config})
    analysis = analyse(two_layers(tmp_path, name, fused, known), workers=1)
    assert len(analysis.rows) == 2 * (len(gates) + len(ups)) and not analysis.notes
    home = name.removesuffix(".weight").rpartition(".")[0]
    for module, matrices in (("gate_proj", gates), ("up_proj", ups)):
        rows = [row for row in analysis.rows if row["module"] == f"{home}.{module}" and row["layer"] == 1]
        assert [row["expert"] for row in rows] == (list(range(EXPERTS)) if len(matrices) > 1 else [None])
        for row, matrix in zip(rows, matrices, strict=True):
            number = "" if row["expert"] is None else f".{row['expert']}"
            assert row["tensor"].removesuffix(".weight") == f"model.layers.1.{home}{number}.{module}"
            expected = np.linalg.svd(matrix, compute_uv=False)
            np.testing.assert_allclose(analysis.spectra[row["tensor"]], expected, rtol=1e-9)


@pytest.mark.parametrize(
    "config", [{"model_type": "bloom"}, {"model_type": "chatglm", "inner_hidden_size": 4 * HIDDEN}]
)
def test_a_feed_forward_layer_without_a_gate_is_whole(tmp_path: Path, config: Config) -> None:
    matrix = RNG.standard_normal((4 * HIDDEN, HIDDEN))
    selection = select(two_layers(tmp_path, "mlp.dense_h_to_4h.weight", matrix, {**config, **LLAMA}), None)
    assert [part.module for part in selection.parts] == ["mlp.dense_h_to_4h"] * 2
    assert not selection.notes


def test_stored_experts_keep_their_names_and_share_a_module(tmp_path: Path) -> None:
    tensors = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight": RNG.standard_normal((8, 12))
        for layer in range(2)
        for expert in range(2)
    }
    selection = select(write_checkpoint(tmp_path, tensors, {"num_hidden_layers": 2}), None)
    assert [part.name for part in selection.parts] == sorted(tensors)
    assert {(part.module, part.layer, part.expert) for part in selection.parts} == {
        ("block_sparse_moe.experts.w1", layer, expert) for layer in range(2) for expert in range(2)
    }


def test_experts_stacked_by_rows_are_taken_apart(tmp_path: Path) -> None:
    """As DBRX stores them."""
    config = {"ffn_config": {"moe_num_experts": EXPERTS, "ffn_hidden_size": 20}, "d_model": HIDDEN}
    analysis = analyse(two_layers(tmp_path, "ffn.experts.mlp.w1", in_turn(*GATES), config), workers=1)
    assert [row["tensor"] for row in analysis.rows[:EXPERTS]] == [
        f"model.layers.0.ffn.experts.mlp.experts.{expert}.w1" for expert in range(EXPERTS)
    ]
    for row, matrix in zip(analysis.rows[:EXPERTS], GATES, strict=True):
        np.testing.assert_allclose(analysis.spectra[row["tensor"]], np.linalg.svd(matrix)[1], rtol=1e-9)


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
def test_a_stack_of_as_many_matrices_as_there_are_experts_holds_one_for_each(tmp_path: Path, key: str) -> None:
    selection = select(two_layers(tmp_path, "moe.up_proj.weight", GATES, {key: EXPERTS}), None)
    assert [part.name for part in selection.parts if part.layer == 1] == [
        f"model.layers.1.moe.experts.{expert}.up_proj.weight" for expert in range(EXPERTS)
    ]
    assert [part.offset for part in selection.parts if part.layer == 1] == [0, 20 * HIDDEN, 2 * 20 * HIDDEN]
    assert {part.nbytes for part in selection.parts} == {20 * HIDDEN * 8}


UNKNOWN = [
    ("a new family", "attn.query_key_value.weight", (72, 24), LLAMA, "query, key and value"),
    ("codegen", "attn.qkv_proj.weight", (72, 24), GPT2, "query, key and value"),
    ("without heads", "attn.qkv_proj.weight", (72, 24), {"hidden_size": 24}, "query, key and value"),
    ("without sizes", "attn.qkv_proj.weight", (72, 24), {"num_attention_heads": HEADS}, "query, key and value"),
    ("of more rows", "attn.qkv_proj.weight", (76, 24), LLAMA, "query, key and value"),
    ("heads that cannot be shared", "attn.qkv_proj.weight", (56, 24), LLAMA | {"num_key_value_heads": 4},
     "query, key and value"),
    ("another hidden size", "mlp.gate_up_proj.weight", (40, 20), LLAMA, "gate and up"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "shape", "config", "what"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_a_fused_tensor_of_unknown_layout_is_scored_whole_and_noted(
    tmp_path: Path, family: str, name: str, shape: tuple[int, int], config: Config, what: str
) -> None:
    checkpoint = two_layers(tmp_path, name, np.ones(shape), of_family(family, config))
    selection = select(checkpoint, None)
    assert [part.name for part in selection.parts] == list(checkpoint.tensors)
    leaf = name.split(".")[1]
    note = f"{leaf} of shape {list(shape)} is scored whole: the config does not say how {what} are laid out"
    assert selection.notes == dict.fromkeys(checkpoint.tensors, note)


TEXT = {"num_hidden_layers": 2, "num_key_value_heads": GROUPS} | LLAMA
NESTED = [
    ("qwen2_5_vl", "model.layers.", "visual.blocks.",
     TEXT | {"vision_config": {"depth": 2, "hidden_size": 16, "num_heads": 4}}),
    ("llava", "language_model.model.layers.", "vision_tower.encoder.layers.",
     {"vision_config": {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}, "text_config": TEXT}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "text", "vision", "config"), NESTED, ids=[case[0] for case in NESTED])
def test_sizes_are_those_of_the_own_section_of_the_config(
    tmp_path: Path, family: str, text: str, vision: str, config: Config
) -> None:
    """Three heads of the language model share a key, those of the tower have one each."""
    tensors = {f"{text}{layer}.qkv_proj.weight": np.ones((40, HIDDEN)) for layer in range(2)}
    tensors |= {f"{vision}{layer}.attn.qkv.weight": np.ones((48, 16)) for layer in range(2)}
    selection = select(write_checkpoint(tmp_path, tensors, of_family(family, config)), None)
    assert not selection.notes
    shapes = {part.name: part.shape for part in selection.parts}
    assert [shapes[f"{text}0.{leaf}_proj.weight"] for leaf in "qkv"] == [(24, 24), (8, 24), (8, 24)]
    assert [shapes[f"{vision}0.attn.{leaf}_proj.weight"] for leaf in "qkv"] == [(16, 16)] * 3


def test_all_matrices_of_the_layers_and_nothing_else_by_default(tmp_path: Path) -> None:
    tensors, config = llama(2)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["score.weight"] = np.ones((1, 32))
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(32)
    tensors["model.layers.0.mlp.experts.gate_up_proj_bias"] = np.ones((4, 8))
    tensors["model.layers.0.self_attn.q_proj.weight_scale_inv"] = np.ones((4, 4))
    selection = select(write_checkpoint(tmp_path, tensors, config), None)
    inside = {name: value for name, value in tensors.items() if ".layers." in name and name.endswith(".weight")}
    assert {part.name for part in selection.parts} == {name for name, value in inside.items() if value.ndim == 2}
    assert all(part.whole and part.stack == "model.layers." for part in selection.parts)
    assert not selection.notes


@pytest.mark.parametrize(
    ("modules", "count"),
    [
        (["v_proj"], 3),
        (["self_attn.v_proj", "mlp."], 12),
        (["embed_tokens"], 1),
        (["layers.1."], 7),
        ([".mlp."], 9),
    ],
)
def test_modules_choose_by_substring(tmp_path: Path, modules: list[str], count: int) -> None:
    tensors, config = llama(3)
    selection = select(write_checkpoint(tmp_path, tensors, config), modules)
    assert len(selection.parts) == count
    assert all(any(text in part.name for text in modules) for part in selection.parts)


def test_a_part_of_a_fused_tensor_can_be_chosen_alone(tmp_path: Path) -> None:
    config = LLAMA | {"num_key_value_heads": GROUPS}
    checkpoint = two_layers(tmp_path, "self_attn.qkv_proj.weight", in_turn(*SHARED), config)
    assert [part.module for part in select(checkpoint, ["v_proj"]).parts] == ["self_attn.v_proj"] * 2
    assert len(select(checkpoint, ["qkv_proj"]).parts) == 6


def test_modules_that_match_nothing_are_an_error_that_lists_what_there_is(tmp_path: Path) -> None:
    tensors, config = llama(2)
    checkpoint = write_checkpoint(tmp_path, tensors, config)
    mlp = "mlp.down_proj, mlp.gate_proj, mlp.up_proj"
    attention = "self_attn.k_proj, self_attn.o_proj, self_attn.q_proj, self_attn.v_proj"
    there = f"weights that can be named: {mlp}, model.embed_tokens, {attention}$"
    with pytest.raises(AnalysisError, match=f"no two-dimensional weight matches 'v_porj', 'q_porj'; {there}"):
        select(checkpoint, ["q_proj", "v_porj", "q_porj"])


def test_a_checkpoint_of_vectors_has_nothing_to_score(tmp_path: Path) -> None:
    checkpoint = two_layers(tmp_path, "norm.weight", np.ones(8), {})
    message = "no two-dimensional weight matches any layer; weights that can be named: none$"
    with pytest.raises(AnalysisError, match=message):
        select(checkpoint, None)


VECTOR, CONVOLUTION = "model.layers.0.mlp.shared_expert_gate.weight", "model.layers.1.mixer.conv1d.weight"
NOTES = {
    VECTOR: "shape [1, 32] is a vector",
    CONVOLUTION: "shape [8, 2, 4] is neither a matrix nor a stack of experts",
}


@pytest.mark.parametrize(
    ("modules", "noted"),
    [
        (None, [VECTOR, CONVOLUTION]),
        (["layers.0."], [VECTOR]),
        (["embed_tokens", "layers.1."], [CONVOLUTION]),
        (["v_proj"], []),
    ],
)
def test_what_cannot_be_scored_is_noted_with_the_reason_where_it_is_asked_for(
    tmp_path: Path, modules: list[str] | None, noted: list[str]
) -> None:
    tensors, config = llama(2)
    tensors |= {VECTOR: np.ones((1, 32)), CONVOLUTION: np.ones((8, 2, 4))}
    notes = select(write_checkpoint(tmp_path, tensors, config), modules).notes
    assert notes == {name: NOTES[name] for name in noted}


def test_a_note_on_a_fused_tensor_goes_with_its_choice(tmp_path: Path) -> None:
    tensors = {f"h.{layer}.{leaf}.weight": np.ones((12, 8)) for layer in range(2) for leaf in ("qkv_proj", "mlp")}
    checkpoint = write_checkpoint(tmp_path, tensors, {})
    assert list(select(checkpoint, ["h.1."]).notes) == ["h.1.qkv_proj.weight"]
    assert not select(checkpoint, ["mlp"]).notes


def test_weights_of_any_type_are_scored_that_needs_no_scale(tmp_path: Path) -> None:
    types = {
        "bf": torch.bfloat16, "half": torch.float16, "single": torch.float32, "double": torch.float64,
        "eight": torch.float8_e4m3fn, "whole": torch.int32,
    }  # fmt: skip
    tensors = {f"h.{layer}.{leaf}": torch.ones(4, 4).to(dtype) for layer in range(2) for leaf, dtype in types.items()}
    folder = synthetic.write_checkpoint(tmp_path / "m", tensors, {"num_hidden_layers": 2})
    selection = select(open_checkpoint(folder), None)
    assert {part.module for part in selection.parts} == {"bf", "half", "single", "double"}
    reason = "stored as {}; scores need one of BF16, F16, F32, F64"
    assert {name: note for name, note in selection.notes.items() if name.startswith("h.0.")} == {
        "h.0.eight": reason.format("F8_E4M3"),
        "h.0.whole": reason.format("I32"),
    }


def test_the_parts_of_a_tensor_cover_it_without_overlap(tmp_path: Path) -> None:
    for number, (family, name, fused, config, _) in enumerate(ATTENTION):
        checkpoint = two_layers(tmp_path / str(number), name, fused, of_family(family, config))
        parts = [part for part in select(checkpoint, None).parts if part.layer == 0]
        covered = [i for part in parts for span in part.spans for i in range(*span)]
        assert sorted(covered) == list(range(fused.shape[parts[0].axis])), family
        assert sum(math.prod(part.shape) for part in parts) == fused.size
