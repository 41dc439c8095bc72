"""Contract: the layer map says which layers and parts are made of what; one table says what is set for whom, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_assets.plan import Plan
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.parameter_table import parameter_table
from tests.merging import plan_text
from tests.synthetic import write_llama


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in "abc":
        write_llama(root / name, 8)
    return root


def plan_of(root: Path, text: str) -> Plan:
    for name in "abc":
        text = text.replace(f"{{{name}}}", str(root / name))
    return plan_text(text, root)


def rows(plan: Plan) -> list[tuple[str, str]]:
    """What stands in the layers; the rest is the same in each of these."""
    found = layer_map(plan)
    assert [(row.part, row.output) for row in (found[0], *found[-2:])] == [
        ("", "before the layers"),
        ("", "after the layers"),
        ("", "head"),
    ]
    return [(row.output, row.sources) for row in found[1:-2]]


def values(plan: Plan) -> list[tuple[str, str, str, str]]:
    return [(row.model, row.parameter, row.of, row.value) for row in parameter_table(plan)]


def test_the_base_is_marked_and_a_gradient_has_its_shape(root: Path) -> None:
    plan = plan_of(
        root,
        "merge_method: slerp\nbase_model: {a}\nmodels: [{model: {b}}]\n"
        "parameters: {t: [{filter: self_attn, value: [0, 1, 0, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]}\n",
    )
    assert layer_map(plan)[0].sources == "a (base) + b"
    assert rows(plan) == [("0–7", "a 0–7 (base) + b 0–7")]
    assert values(plan) == [
        ("a", "", "", "the base"),
        ("slerp", "t", "outside the layers, input_layernorm, post_attention_layernorm", "0.5"),
        ("slerp", "t", "mlp", "1…0"),
        ("slerp", "t", "self_attn", "▁▄▇▆▃▂▅█ 0 to 1"),
    ]


def test_every_model_has_its_own_rows(root: Path) -> None:
    plan = plan_of(
        root,
        "merge_method: ties\nbase_model: {a}\nmodels:\n"
        "- {model: {b}, parameters: {weight: [0, 1], density: 0.5}}\n"
        "- {model: {c}, parameters: {weight: [{filter: o_proj, value: 0.3}, {value: 0.1}], density: 0.9}}\n",
    )
    assert values(plan) == [
        ("a", "", "", "the base"),
        ("b", "weight", "outside the layers", "0"),
        ("b", "weight", "layers", "0…1"),
        ("b", "density", "all", "0.5"),
        ("c", "weight", "self_attn.o_proj", "0.3"),
        ("c", "weight", "all else", "0.1"),
        ("c", "density", "all", "0.9"),
    ]


def test_slices_that_go_on_are_one_row_and_their_values_a_list_with_layers(root: Path) -> None:
    pieces = "".join(
        f"- sources: [{{model: {{a}}, layer_range: [{at}, {at + 2}], parameters: {{scale: {{filter: o_proj, value: {x}}}}}}}]\n"
        for at, x in ((0, 1), (2, 2.5), (4, 4))
    )
    plan = plan_of(root, f"merge_method: passthrough\nslices:\n{pieces}")
    assert rows(plan) == [("0–5", "a 0–5")]
    assert ("a", "scale", "self_attn.o_proj", "1 in 0–1; 2.5 in 2–3; 4 in 4–5") in values(plan)


def test_layers_that_are_skipped_leave_a_gap(root: Path) -> None:
    plan = plan_of(root, "merge_method: passthrough\nprune_layers: {model: {a}, by: list, remove: [2, 3, 6]}\n")
    assert rows(plan) == [("0–1", "a 0–1"), ("2–3", "a 4–5"), ("4", "a 7")]
    assert values(plan) == []


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (1, [("0–11", "a 0–5 and a 2–7 by turns, 1 layer each")]),
        (2, [("0–3", "a 0–3"), ("4–7", "a 2–5"), ("8–11", "a 4–7")]),
        (3, [("0–2", "a 0–2"), ("3–5", "a 2–4"), ("6–8", "a 3–5"), ("9–11", "a 5–7")]),
    ],
)
def test_copies_that_take_turns_are_one_row(root: Path, block: int, expected: list[tuple[str, str]]) -> None:
    plan = plan_of(root, f"merge_method: passthrough\ndepth_upscale: {{model: {{a}}, overlap: 2, block: {block}}}\n")
    assert rows(plan) == expected


def test_slices_of_one_model_alone_are_told_from_those_of_several(root: Path) -> None:
    plan = plan_of(
        root,
        "merge_method: linear\nslices:\n"
        "  - sources: [{model: {a}, layer_range: [0, 4], parameters: {weight: 1}}]\n"
        "  - sources: [{model: {b}, layer_range: [4, 8], parameters: {weight: 0.25}}, "
        "{model: {c}, layer_range: [2, 6], parameters: {weight: 0.75}}]\n",
    )
    assert rows(plan) == [("0–3", "a 0–3"), ("4–7", "b 4–7 + c 2–5")]
    assert layer_map(plan)[0].sources == "a"
    assert values(plan) == [("a", "weight", "all", "1"), ("b", "weight", "all", "0.25"), ("c", "weight", "all", "0.75")]


def test_a_tensor_is_called_by_its_name_without_what_all_begin_with(root: Path) -> None:
    plan = plan_of(
        root,
        "merge_method: linear\nmodels:\n- {model: {a}, parameters: {weight: 1}}\n"
        "- {model: {b}, parameters: {weight: [{filter: lm_head, value: 0.5}, {filter: model.norm, value: 2}, {value: 1}]}}\n",
    )
    assert values(plan)[1:] == [
        ("b", "weight", "embed_tokens, layers", "1"),
        ("b", "weight", "lm_head", "0.5"),
        ("b", "weight", "norm", "2"),
    ]


def test_what_only_one_model_has_outside_its_layers(root: Path) -> None:
    """Then the others' part of ``model.`` is a branch of its own."""
    write_llama(root / "more", 8, edit={"mtp.norm.weight": torch.ones(16)})
    text = (
        f"merge_method: linear\nmodels: [{{model: {root}/more}}, {{model: {{a}}}}]\nparameters: {{weight: [0.5, 1]}}\n"
    )
    found = {(model, of): value for model, _, of, value in values(plan_of(root, text))}
    assert found["a", "outside the layers"] == "0.5" and found["more", "layers"] == "0.5…1"


def test_of_many_names_the_first_are_listed(root: Path) -> None:
    """As of experts, of which a filter takes some."""
    experts = {f"model.layers.{at}.mlp.experts.{n}.w1.weight": torch.ones(2, 2) for at in range(8) for n in range(30)}
    write_llama(root / "moe", 8, edit=experts)
    scaled = f"{{model: {root}/moe, parameters: {{scale: {{filter: experts.1, value: 2}}}}}}"
    (row,) = values(plan_of(root, f"merge_method: passthrough\nmodels: [{scaled}]\n"))
    assert row[2].startswith("mlp.experts.1, mlp.experts.10, mlp.experts.11, ") and row[2].endswith(" and 3 more")
