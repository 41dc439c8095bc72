"""Contract: every matrix of the layers is scored once, under the name it would have if it were stored alone.

The spectra of fused matrices must be those of the separate ones.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.analysis.matrices import select
from merge_assets.analysis.run import analyse
from merge_assets.checkpoint import Checkpoint, open_checkpoint
from merge_assets.errors import AnalysisError
from tests import synthetic
from tests.analysis_support import llama, write_checkpoint
from tests.architecture import layouts
from tests.architecture.layouts import (
    EXPERTS,
    GATES,
    GROUPS,
    HIDDEN,
    LLAMA,
    RNG,
    SHARED,
    Config,
    Doubles,
    SeveralOrOne,
    Three,
    in_turn,
    of_family,
)


def two_layers(folder: Path, name: str, value: Doubles, config: Config) -> Checkpoint:
    tensors = {f"model.layers.{layer}.{name}": value for layer in range(2)}
    return write_checkpoint(folder, tensors, {"num_hidden_layers": 2, **config})


WAYS = {
    *("phi3", "gpt2", "gpt_neox", "falcon, 40b", "torch.nn.MultiheadAttention"),
    *("chatglm", "mixtral", "qwen3_vl_moe", "gpt_oss"),
}
"""One layout for each way in which a matrix may lie in a stored tensor; ``tests/architecture/test_fused.py`` has them all."""
ATTENTION = [case for case in layouts.ATTENTION if case[0] in WAYS]
GATED = [case for case in layouts.GATED if case[0] in WAYS]


@pytest.mark.parametrize(("family", "name", "fused", "config", "parts"), ATTENTION, ids=[case[0] for case in ATTENTION])
def test_fused_attention_is_scored_as_query_key_and_value(
    tmp_path: Path, family: str, name: str, fused: Doubles, config: Config, parts: Three
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


@pytest.mark.parametrize(("family", "name", "fused", "config", "gates", "ups"), GATED, ids=[case[0] for case in GATED])
def test_fused_gate_and_up_are_scored_apart(
    tmp_path: Path,
    family: str,
    name: str,
    fused: Doubles,
    config: Config,
    gates: SeveralOrOne,
    ups: SeveralOrOne,
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


def test_stored_experts_keep_their_names_and_share_a_module(tmp_path: Path) -> None:
    tensors = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight": RNG.standard_normal((8, 12))
        for layer in range(2)
        for expert in range(2)
    }
    selection = select(write_checkpoint(tmp_path, tensors, {"num_hidden_layers": 2}), None)
    assert [matrix.name for matrix in selection.matrices] == sorted(tensors)
    assert {(matrix.module, matrix.layer, matrix.expert) for matrix in selection.matrices} == {
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


def test_a_stack_holds_a_matrix_for_each_expert(tmp_path: Path) -> None:
    selection = select(two_layers(tmp_path, "moe.up_proj.weight", GATES, {"num_experts": EXPERTS}), None)
    assert [matrix.name for matrix in selection.matrices if matrix.layer == 1] == [
        f"model.layers.1.moe.experts.{expert}.up_proj.weight" for expert in range(EXPERTS)
    ]
    assert [matrix.offset for matrix in selection.matrices if matrix.layer == 1] == [0, 20 * HIDDEN, 2 * 20 * HIDDEN]
    assert {matrix.nbytes for matrix in selection.matrices} == {20 * HIDDEN * 8}


UNKNOWN = [
    ("attn.query_key_value.weight", (72, 24), "query, key and value"),
    ("mlp.gate_up_proj.weight", (40, 20), "gate and up"),
]


@pytest.mark.parametrize(("name", "shape", "what"), UNKNOWN)
def test_a_fused_tensor_of_unknown_layout_is_scored_whole_and_noted(
    tmp_path: Path, name: str, shape: tuple[int, int], what: str
) -> None:
    checkpoint = two_layers(tmp_path, name, np.ones(shape), of_family("a new family", LLAMA))
    selection = select(checkpoint, None)
    assert [matrix.name for matrix in selection.matrices] == list(checkpoint.tensors)
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
    shapes = {matrix.name: matrix.shape for matrix in selection.matrices}
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
    assert {matrix.name for matrix in selection.matrices} == {name for name, value in inside.items() if value.ndim == 2}
    assert all(matrix.whole and matrix.stack == "model.layers." for matrix in selection.matrices)
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
    assert len(selection.matrices) == count
    assert all(any(text in matrix.name for text in modules) for matrix in selection.matrices)


def test_a_part_of_a_fused_tensor_can_be_chosen_alone(tmp_path: Path) -> None:
    config = LLAMA | {"num_key_value_heads": GROUPS}
    checkpoint = two_layers(tmp_path, "self_attn.qkv_proj.weight", in_turn(*SHARED), config)
    assert [matrix.module for matrix in select(checkpoint, ["v_proj"]).matrices] == ["self_attn.v_proj"] * 2
    assert len(select(checkpoint, ["qkv_proj"]).matrices) == 6


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
    assert {matrix.module for matrix in selection.matrices} == {"bf", "half", "single", "double"}
    reason = "stored as {}; scores need one of BF16, F16, F32, F64"
    assert {name: note for name, note in selection.notes.items() if name.startswith("h.0.")} == {
        "h.0.eight": reason.format("F8_E4M3"),
        "h.0.whole": reason.format("I32"),
    }


def test_the_matrices_of_a_tensor_cover_it_without_overlap(tmp_path: Path) -> None:
    for number, (family, name, fused, config, _) in enumerate(ATTENTION):
        checkpoint = two_layers(tmp_path / str(number), name, fused, of_family(family, config))
        matrices = [matrix for matrix in select(checkpoint, None).matrices if matrix.layer == 0]
        covered = [i for matrix in matrices for span in matrix.spans for i in range(*span)]
        assert sorted(covered) == list(range(fused.shape[matrices[0].axis])), family
        assert sum(math.prod(matrix.shape) for matrix in matrices) == fused.size
