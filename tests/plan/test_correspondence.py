"""Contract: tensors are matched by role, in the donor's spelling; what only some models have is decided by what it is.

Numbers are held against the formula, computed here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from merge_assets import api
from merge_assets.architecture import depth
from merge_assets.errors import PlanError
from merge_assets.settings import Settings
from tests.merging import merge_text, merged_tensors, plan_text, read_tensors
from tests.synthetic import write_checkpoint
from tests.tables import TABLES

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "vocab_size": 8,
    "hidden_size": 4,
    "tie_word_embeddings": False,
}
BODY = (
    "model.embed_tokens.weight",
    *(f"model.layers.{n}.{leaf}" for n in range(2) for leaf in ("mlp.up_proj.weight", "self_attn.q_proj.weight")),
    "model.norm.weight",
    "lm_head.weight",
)
LINEAR = """\
merge_method: linear
models:
- {{model: {a}, parameters: {{weight: 0.25}}}}
- {{model: {b}, parameters: {{weight: 0.5}}}}
"""


def tensors(seed: int, names: tuple[str, ...] = BODY) -> dict[str, torch.Tensor]:
    """A matrix of 8 rows for every name."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(8, 4, generator=generator) for name in names}


def mean(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return ((0.25 * one.double() + 0.5 * other.double()) / 0.75).float()


def pair(tmp_path: Path, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], **config: Any) -> str:
    """A linear merge of two models of these tensors."""
    place = tmp_path / uuid.uuid4().hex[:8]
    return LINEAR.format(
        a=write_checkpoint(place / "a", a, LLAMA | config), b=write_checkpoint(place / "b", b, LLAMA | config)
    )


def spelled(found: Mapping[str, torch.Tensor], **prefixes: str) -> dict[str, torch.Tensor]:
    """The same tensors with other beginnings of their names."""
    renamed = {}
    for name, tensor in found.items():
        old = next((old for old in prefixes if name.startswith(f"{old}.")), None)
        renamed[name if old is None else f"{prefixes[old]}{name.removeprefix(f'{old}.')}"] = tensor
    return renamed


@pytest.mark.parametrize(
    "prefixes",
    [
        pytest.param({"model": "model.language_model.", "lm_head": "lm_head."}, id="language model within"),
        pytest.param({"model": "language_model.model.", "lm_head": "language_model.lm_head."}, id="older nesting"),
        pytest.param({"model": "thinker.model.", "lm_head": "thinker.lm_head."}, id="thinker"),
        pytest.param({"model": "_orig_mod.model.", "lm_head": "_orig_mod.lm_head."}, id="compiled"),
        pytest.param({"model": "model._orig_mod.", "lm_head": "lm_head."}, id="body compiled"),
        pytest.param({"model": "module.model.", "lm_head": "module.lm_head."}, id="data parallel"),
        pytest.param({"model": "", "lm_head": "lm_head."}, id="no wrapper"),
    ],
)
def test_one_architecture_in_two_spellings_is_merged_under_the_donors_names(
    prefixes: dict[str, str], tmp_path: Path
) -> None:
    a, b = tensors(0), tensors(1)
    text = pair(tmp_path, a, spelled(b, **prefixes))
    found = merged_tensors(text, tmp_path)
    assert found.keys() == a.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, mean(a[name], b[name]), rtol=0, atol=1e-6)
    renamed = [one for one in plan_text(text, tmp_path).decisions if one.what == "renamed"]
    assert {one.model.rpartition("/")[2] for one in renamed} == {"b"}
    assert sum(one.count for one in renamed) == sum(name not in a for name in spelled(b, **prefixes))


def test_names_that_transformers_has_changed_are_one(tmp_path: Path) -> None:
    old = tuple(
        f"model.layers.{n}.block_sparse_moe.{leaf}" for n in range(2) for leaf in ("gate.weight", "experts.0.w1.weight")
    )
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    a, b = tensors(0, (*BODY, *old)), tensors(1, (*BODY, *old))
    newer = {name.replace(".block_sparse_moe.", ".mlp."): tensor for name, tensor in b.items()}
    found = merged_tensors(pair(tmp_path, a, newer, **config), tmp_path)
    assert found.keys() == a.keys()
    torch.testing.assert_close(found[old[1]], mean(a[old[1]], b[old[1]]), rtol=0, atol=1e-6)


def test_wrappers_of_training_go_from_the_donor_too(tmp_path: Path) -> None:
    a = tensors(0)
    folder = write_checkpoint(tmp_path / "a", spelled(a, model="_orig_mod.model.", lm_head="_orig_mod.lm_head."), LLAMA)
    found = merged_tensors(f"merge_method: passthrough\nmodels: [{{model: {folder}}}]\n", tmp_path)
    assert found.keys() == a.keys() and all(torch.equal(found[name], a[name]) for name in a)


def test_what_could_be_two_things_is_not_guessed(tmp_path: Path) -> None:
    a = tensors(0)
    b = tensors(1) | {f"talker.{name}": tensor for name, tensor in tensors(2).items()}
    with pytest.raises(PlanError, match="talker"):
        plan_text(pair(tmp_path, a, b), tmp_path)


HEADS = {
    "mtp": "mtp.layers.0.mlp.up_proj.weight",
    "score": "score.weight",
    "classifier": "classifier.dense.weight",
    "value head": "v_head.summary.weight",
    "pooler": "pooler.dense.weight",
    "rotary table": "model.layers.1.self_attn.rotary_emb.inv_freq",
    "positions": "embeddings.position_ids",
}


@pytest.mark.parametrize("name", HEADS.values(), ids=HEADS)
def test_heads_and_tables_that_one_model_lacks_are_the_donors(name: str, tmp_path: Path) -> None:
    a, b, extra = tensors(0), tensors(1), torch.ones(8, 4)
    found = merged_tensors(pair(tmp_path, a | {name: extra}, b), tmp_path)
    assert found.keys() == {*a, name} and torch.equal(found[name], extra)
    torch.testing.assert_close(found[BODY[1]], mean(a[BODY[1]], b[BODY[1]]), rtol=0, atol=1e-6)
    plan = plan_text(pair(tmp_path, a, b | {name: extra}), tmp_path)
    assert {tensor.name for tensor in plan.tensors} == a.keys(), "the donor's class does not use it"
    (decision,) = plan.decisions
    assert (decision.what, decision.example, decision.count) == ("dropped", name, 1)
    assert decision.text in plan.warnings
    assert [(one.tensor, one.reason) for one in plan.dropped] == [(name, "other models lack it")]


def test_what_adapters_left_behind_is_dropped(tmp_path: Path) -> None:
    left = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    plan = plan_text(pair(tmp_path, tensors(0) | {left: torch.ones(8, 4)}, tensors(1)), tmp_path)
    assert [(one.what, one.example) for one in plan.decisions] == [("dropped", left)]


def test_layers_beyond_the_last_are_the_donors_and_can_be_left_out(tmp_path: Path) -> None:
    beyond = {f"model.layers.2.{leaf}": torch.ones(8, 4) for leaf in ("eh_proj.weight", "mlp.up_proj.weight")}
    a, b, config = tensors(0) | beyond, tensors(1), {"num_nextn_predict_layers": 1}
    text = pair(tmp_path, a, b, **config)
    assert merged_tensors(text, tmp_path).keys() == a.keys()
    plan = plan_text(f"{text}missing: drop\n", tmp_path)
    assert {tensor.name for tensor in plan.tensors} == b.keys()
    assert plan.config["num_nextn_predict_layers"] == 0 and plan.config["num_hidden_layers"] == 2


def test_all_else_is_an_error_that_names_the_closest_and_the_key(tmp_path: Path) -> None:
    extra = "model.layers.1.self_attn.q_norm.weight"
    text = pair(tmp_path, tensors(0) | {extra: torch.ones(8, 4)}, tensors(1))
    with pytest.raises(PlanError) as caught:
        plan_text(text, tmp_path)
    for part in (
        f"has no tensor {extra}",
        "q_proj.weight",
        "missing: [{filter: self_attn.q_norm.weight, value: carry}]",
    ):
        assert part in str(caught.value)
    kept = plan_text(f"{text}missing: [{{filter: q_norm, value: carry}}]\n", tmp_path)
    assert extra in {tensor.name for tensor in kept.tensors}
    assert extra not in {tensor.name for tensor in plan_text(f"{text}missing: drop\n", tmp_path).tensors}
    with pytest.raises(PlanError, match="has no tensor mtp"):
        plan_text(pair(tmp_path, tensors(0) | {"mtp.w": torch.ones(8, 4)}, tensors(1)) + "missing: refuse\n", tmp_path)


def test_whole_numbers_are_carried_where_all_agree_and_an_error_where_not(tmp_path: Path) -> None:
    table = {
        "model.layers.0.ffn.gate.tid2eid": torch.arange(8).reshape(4, 2),
        "model.mask": torch.tensor([True, False]),
    }
    other = table | {"model.mask": torch.tensor([True, True])}
    space = api.Workspace.open(Settings(root=tmp_path, recipes=[]))

    def merged(text: str) -> dict[str, torch.Tensor]:
        (tmp_path / "r.yaml").write_text(text)
        api.merge(space, space.recipe(str(tmp_path / "r.yaml")), tmp_path / "out", overwrite=True)
        return read_tensors(tmp_path / "out")

    found = merged(pair(tmp_path, tensors(0) | table, tensors(1) | table))
    assert all(torch.equal(found[name], tensor) for name, tensor in table.items())
    dropped = json.loads((tmp_path / "out" / "plan.json").read_text())["dropped"]
    assert {one["tensor"]: one["reason"] for one in dropped} == dict.fromkeys(table, "carried from another model")
    text = pair(tmp_path, tensors(0) | table, tensors(1) | other)
    with pytest.raises(PlanError, match=r"model\.mask holds whole numbers \(BOOL\), which differ in .*value: carry"):
        merged(text)
    carried = merged(f"{text}missing: [{{filter: mask, value: carry}}]\n")
    assert torch.equal(carried["model.mask"], table["model.mask"])


def test_other_spellings_share_what_is_computed(tmp_path: Path) -> None:
    """Keys are of bytes, so a rename changes none of the variant's."""
    a, b = tensors(0), tensors(1)
    plain = merge_text(pair(tmp_path, a, b), tmp_path)
    other = merge_text(pair(tmp_path, a, spelled(b, model="model.language_model.")), tmp_path)
    assert all(torch.equal(read_tensors(plain)[name], tensor) for name, tensor in read_tensors(other).items())


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_the_transformers_that_is_installed(name: str) -> None:
    shipped = json.loads((files("merge_assets.architecture") / name).read_text())
    # The third takes minutes to make.
    made = {**shipped, "transformers": transformers.__version__} if name == depth.TABLE else TABLES[name]()
    assert shipped == json.loads(json.dumps(made)), "run python -m tests.tables"
