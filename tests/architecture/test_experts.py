"""Contract: an expert's matrices are found wherever they are stored, and have one name."""

from __future__ import annotations

import pytest

from merge_assets.architecture.experts import expert_of, matrices_in, matrices_of, with_expert
from merge_assets.architecture.sizes import Sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp.experts.7.up_proj.weight", ("mlp.experts.up_proj.weight", 7)),
        ("block_sparse_moe.experts.12.w1.weight", ("block_sparse_moe.experts.w1.weight", 12)),
        ("experts.0.w", ("experts.w", 0)),
        ("mlp.shared_experts.up_proj.weight", None),
        ("mlp.experts.gate_up_proj", None),
        ("self_attn.0.weight", None),
    ],
)
def test_the_expert_in_a_name(name: str, expected: tuple[str, int] | None) -> None:
    assert expert_of(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l.0.mlp.experts.down_proj", "l.0.mlp.experts.7.down_proj"),
        ("l.0.mlp.experts.down_proj.weight", "l.0.mlp.experts.7.down_proj.weight"),
        ("l.0.moe.up_proj.weight", "l.0.moe.experts.7.up_proj.weight"),
        ("l.0.ffn.experts.mlp.w1", "l.0.ffn.experts.mlp.experts.7.w1"),
    ],
)
def test_the_name_of_one_of_a_stack(name: str, expected: str) -> None:
    assert with_expert(name, 7) == expected


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
def test_a_tensor_of_as_many_matrices_as_there_are_experts_is_a_stack(key: str) -> None:
    sizes = Sizes({key: 3}, None)
    assert matrices_in("moe.up_proj.weight", (3, 20, 24), sizes) == [(expert, (20, 24)) for expert in range(3)]
    assert matrices_in("moe.up_proj.weight", (4, 20, 24), sizes) == []


def test_experts_by_name_by_rows_and_a_matrix_alone() -> None:
    """By rows as DBRX stacks them."""
    sizes = Sizes({"ffn_config": {"moe_num_experts": 3, "ffn_hidden_size": 20}, "d_model": 24}, None)
    assert matrices_in("mlp.experts.gate_up_proj", (5, 20, 24), sizes) == [(n, (20, 24)) for n in range(5)]
    assert matrices_in("ffn.experts.mlp.w1", (60, 24), sizes) == [(n, (20, 24)) for n in range(3)]
    assert matrices_in("ffn.experts.0.w1", (60, 24), sizes) == [(None, (60, 24))]
    assert matrices_in("ffn.w1", (60, 24), sizes) == [(None, (60, 24))]
    assert matrices_in("conv.weight", (8, 2, 4, 4), sizes) == []


def test_a_parameter_in_memory_is_the_matrices_of_all_experts_in_files() -> None:
    names = {f"l.0.mlp.experts.{n}.{leaf}_proj.weight" for n in range(2) for leaf in ("gate", "up", "down")}
    found = {parameter: experts for parameter, experts in matrices_of("l.0.mlp.experts", names) if experts}
    assert found == {
        "down_proj": [[f"l.0.mlp.experts.{n}.down_proj.weight"] for n in range(2)],
        "gate_up_proj": [[f"l.0.mlp.experts.{n}.{leaf}_proj.weight" for leaf in ("gate", "up")] for n in range(2)],
    }


def test_what_lacks_one_of_the_projections_is_no_expert() -> None:
    names = [f"m.mlp.experts.{expert}.{leaf}_proj.weight" for expert in range(2) for leaf in ("gate", "up")]
    found = [experts for _, experts in matrices_of("m.mlp.experts", names[:3]) if experts]
    assert found == [[names[:2]]]


def test_files_may_call_the_module_of_experts_otherwise() -> None:
    """As those of Mixtral."""
    names = {f"l.0.block_sparse_moe.experts.{n}.w{leaf}.weight" for n in range(2) for leaf in (1, 2, 3)}
    found = {parameter: experts for parameter, experts in matrices_of("l.0.mlp.experts", names) if experts}
    assert found["gate_up_proj"][1] == [f"l.0.block_sparse_moe.experts.1.w{leaf}.weight" for leaf in (1, 3)]
    assert found["down_proj"][0] == ["l.0.block_sparse_moe.experts.0.w2.weight"]
