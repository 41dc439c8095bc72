"""Contract: what a fused matrix holds is cut out of it exactly, wherever the config tells how it is laid out."""

from __future__ import annotations

import numpy as np
import pytest

from merge_assets.architecture import LayerStack
from merge_assets.architecture.experts import matrices_in
from merge_assets.architecture.fused import Cuts, fused
from merge_assets.architecture.sizes import Sizes
from tests.architecture.layouts import (
    ATTENTION,
    GATED,
    GPT2,
    GROUPS,
    HEADS,
    HIDDEN,
    LLAMA,
    Config,
    Doubles,
    SeveralOrOne,
    Three,
    of_family,
)


def leaf_of(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


def cut(block: Doubles, cuts: Cuts) -> dict[str, Doubles]:
    """The projections, a row for every output."""
    found = {}
    for name, (axis, spans) in cuts.items():
        taken = np.take(block, [place for span in spans for place in range(*span)], axis)
        found[name] = taken.T if axis else taken
    return found


@pytest.mark.parametrize(
    ("family", "name", "stored", "config", "parts"), ATTENTION, ids=[case[0] for case in ATTENTION]
)
def test_query_key_and_value(family: str, name: str, stored: Doubles, config: Config, parts: Three) -> None:
    known = fused(leaf_of(name), stored.shape, Sizes(of_family(family, config), None))
    assert known is not None and known.cuts is not None
    assert known.what == "query, key and value"
    found = cut(stored, known.cuts)
    assert list(found) == ["q_proj", "k_proj", "v_proj"]
    assert all(np.array_equal(one, other) for one, other in zip(found.values(), parts, strict=True))
    ((axis, covered),) = {(axis, stored.shape[axis]) for axis, _ in known.cuts.values()}
    every = [place for axis, spans in known.cuts.values() for span in spans for place in range(*span)]
    assert sorted(every) == list(range(covered)), axis


@pytest.mark.parametrize(("family", "name", "stored", "config", "gates", "ups"), GATED, ids=[case[0] for case in GATED])
def test_gate_and_up(
    family: str, name: str, stored: Doubles, config: Config, gates: SeveralOrOne, ups: SeveralOrOne
) -> None:
    sizes = Sizes(of_family(family, {"hidden_size": HIDDEN, **config}), None)
    blocks = stored.reshape(-1, *stored.shape[-2:])
    for block, gate, up in zip(blocks, gates, ups, strict=True):
        known = fused(leaf_of(name), block.shape, sizes)
        assert known is not None and known.cuts is not None
        assert known.what == "gate and up"
        found = cut(block, known.cuts)
        assert list(found) == ["gate_proj", "up_proj"]
        assert np.array_equal(found["gate_proj"], gate) and np.array_equal(found["up_proj"], up)
    expected: list[int | None] = list(range(len(gates))) if stored.ndim == 3 else [None]
    assert [expert for expert, _ in matrices_in(name, stored.shape, sizes)] == expected


@pytest.mark.parametrize(
    "config", [{"model_type": "bloom"}, {"model_type": "chatglm", "inner_hidden_size": 4 * HIDDEN}]
)
def test_a_feed_forward_layer_without_a_gate_is_not_fused(config: Config) -> None:
    assert fused("dense_h_to_4h", (4 * HIDDEN, HIDDEN), Sizes({**config, **LLAMA}, None)) is None


@pytest.mark.parametrize("leaf", ["q_proj", "down_proj", "conv1d"])
def test_other_matrices_are_not_fused(leaf: str) -> None:
    assert fused(leaf, (3 * HIDDEN, HIDDEN), Sizes(LLAMA, None)) is None


UNKNOWN = [
    ("a new family", "query_key_value", (72, 24), LLAMA),
    ("codegen", "qkv_proj", (72, 24), GPT2),
    ("without heads", "qkv_proj", (72, 24), {"hidden_size": 24}),
    ("without sizes", "qkv_proj", (72, 24), {"num_attention_heads": HEADS}),
    ("of more rows", "qkv_proj", (76, 24), LLAMA),
    ("heads that cannot be shared", "qkv_proj", (56, 24), LLAMA | {"num_key_value_heads": 4}),
    ("another hidden size", "gate_up_proj", (40, 20), LLAMA),
]


@pytest.mark.parametrize(("family", "leaf", "shape", "config"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_a_layout_that_the_config_does_not_tell_is_unknown(
    family: str, leaf: str, shape: tuple[int, int], config: Config
) -> None:
    known = fused(leaf, shape, Sizes(of_family(family, config), None))
    assert known is not None and known.cuts is None


TEXT = {"num_hidden_layers": 2, "num_key_value_heads": GROUPS} | LLAMA
NESTED = [
    ("qwen2_5_vl", ("num_hidden_layers",), ("vision_config", "depth"),
     TEXT | {"vision_config": {"depth": 2, "hidden_size": 16, "num_heads": 4}}),
    ("llava", ("text_config", "num_hidden_layers"), ("vision_config", "num_hidden_layers"),
     {"vision_config": {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}, "text_config": TEXT}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "text", "vision", "config"), NESTED, ids=[case[0] for case in NESTED])
def test_sizes_are_those_of_the_level_that_counts_the_layers(
    family: str, text: tuple[str, ...], vision: tuple[str, ...], config: Config
) -> None:
    """Three heads of the language model share a key, those of the tower have one each."""
    own, tower = (
        Sizes(of_family(family, config), LayerStack("layers.", 2, key, (), homogeneous=True)) for key in (text, vision)
    )
    assert (own.hidden, own.heads, own.key_heads, own.head_size) == (HIDDEN, HEADS, GROUPS, HIDDEN // HEADS)
    assert (tower.hidden, tower.heads, tower.key_heads, tower.head_size) == (16, 4, 4, 4)


def test_sizes_that_the_config_does_not_tell_are_zero() -> None:
    sizes = Sizes({"hidden_size": None, "num_experts": True}, None)
    assert (sizes.hidden, sizes.heads, sizes.key_heads, sizes.inner) == (0, 0, 0, 0)
    assert sizes.experts == set() and sizes.model_type == ""
