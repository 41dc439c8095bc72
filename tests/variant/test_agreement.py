"""A plan whose config does not describe its tensors is refused before a weight is read, and only such a plan is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_assets import api
from merge_assets.checkpoint import open_checkpoint
from merge_assets.errors import PlanError
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import load_recipe
from merge_assets.settings import Settings
from merge_assets.variant import agreement, checks
from tests.architectures import FAMILIES
from tests.synthetic import read_tensors, write_checkpoint, write_llama

pytestmark = pytest.mark.slow


def checked(text: str, folder: Path) -> Plan:
    file = folder / "recipe.yaml"
    file.write_text(text)
    recipe = load_recipe(file)
    inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
    plan = build_plan(recipe, inputs)
    agreement.check_agreement(plan, inputs, str(file))
    return plan


def stack(*pieces: tuple[Path, int, int]) -> str:
    slices = "".join(f"  - sources: [{{model: {m}, layer_range: [{a}, {b}]}}]\n" for m, a, b in pieces)
    return f"merge_method: passthrough\nslices:\n{slices}"


@pytest.mark.parametrize("case", ["copy", "average", "stack", "prune"])
def test_nothing_is_asked_where_like_layers_say_enough(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the common merges import neither torch nor transformers to be planned."""
    monkeypatch.setattr(agreement, "loading_report", lambda *_: pytest.fail("asked"))
    a, b = write_llama(tmp_path / "a", seed=1), write_llama(tmp_path / "b", seed=2)
    text = {
        "copy": f"merge_method: passthrough\nmodels: [{{model: {a}}}]\n",
        "average": f"merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 1}}\n",
        "stack": stack((a, 0, 3), (b, 1, 4)),
        "prune": f"merge_method: passthrough\nprune_layers: {{model: {a}, by: list, remove: [2]}}\n",
    }[case]
    checked(text, tmp_path)


def test_layers_of_other_widths_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    llama = FAMILIES["Llama"]
    one = llama.save(tmp_path / "one", 1)
    settings = {**llama.settings, "intermediate_size": 40}
    other = type(llama)(llama.name, llama.model, llama.config, settings).save(tmp_path / "other", 2)
    with pytest.raises(
        PlanError,
        match=r"recipe\.yaml: .*does not describe .*shapes differ: model\.layers\.2\.mlp\.down_proj\.weight, .* \(6\)",
    ):
        checked(stack((one, 0, 2), (other, 2, 4)), tmp_path)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    """T5 keeps its position biases in the first layer alone."""
    model = FAMILIES["T5"].save(tmp_path / "m", 1)
    bias = r"layer\.0\.SelfAttention\.relative_attention_bias\.weight \(1\)"
    with pytest.raises(PlanError, match=rf"missing: decoder\.block\.0\.{bias}; unexpected: decoder\.block\.3\.{bias}"):
        checked(stack((model, 1, 4), (model, 0, 1)), tmp_path)


def test_the_verbs_refuse_it_before_a_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["T5"].save(tmp_path / "m", 1)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "odd.yaml").write_text(stack((model, 1, 4), (model, 0, 1)))
    monkeypatch.setattr("merge_assets.engine.execute.execute", lambda *_, **__: pytest.fail("reads weights"))
    space = api.Workspace.open(Settings(root=tmp_path))
    recipe = space.recipe("odd")
    for verb in (api.plan, lambda s, r: api.merge(s, r, tmp_path / "out"), api.build):
        with pytest.raises(PlanError, match="relative_attention_bias"):
            verb(space, recipe)


@pytest.fixture
def with_prediction_head(tmp_path: Path) -> Path:
    """DeepSeek-V3's layout: a layer beyond the last, which transformers leaves out."""
    model = FAMILIES["DeepSeek-V3"].save(tmp_path / "plain", 1)
    tensors = read_tensors(model)
    beyond = {
        name.replace("layers.3.", "layers.4."): tensor.clone()
        for name, tensor in tensors.items()
        if "layers.3." in name
    }
    beyond["model.layers.4.eh_proj.weight"] = torch.ones(32, 64, dtype=torch.bfloat16)
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    folder = write_checkpoint(tmp_path / "m", tensors | beyond, config)
    (folder / "tokenizer.json").unlink()
    return folder


def test_what_the_donor_has_already_is_not_the_merges_fault(with_prediction_head: Path, tmp_path: Path) -> None:
    plan = checked(stack((with_prediction_head, 0, 3), (with_prediction_head, 1, 4)), tmp_path)
    heads = {tensor.name for tensor in plan.tensors if tensor.name.startswith("model.layers.6.")}
    assert "model.layers.6.eh_proj.weight" in heads
    assert plan.config["num_hidden_layers"] == 6


@pytest.mark.parametrize("name", ["T5", "ViT", "Whisper", "Gemma3 (vision)", "Mixtral"])
def test_built_variants_of_every_kind_pass_their_checks(name: str, tmp_path: Path) -> None:
    for seed, folder in enumerate("ab"):
        FAMILIES[name].save(tmp_path / folder, seed)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    )
    space = api.Workspace.open(Settings(root=tmp_path))
    assert [check for check in api.build(space, space.recipe("mean")).checks if not check.passed] == []


def test_the_checks_leave_out_prediction_heads_as_transformers_does(with_prediction_head: Path) -> None:
    plan = checked(f"merge_method: passthrough\nmodels: [{{model: {with_prediction_head}}}]\n", with_prediction_head)
    assert [
        check.description for check in checks.check_variant(with_prediction_head, plan, {}) if not check.passed
    ] == []


def test_an_unknown_model_type_is_not_asked_about(tmp_path: Path) -> None:
    config = {"architectures": ["MyModel"], "model_type": "mine", "num_hidden_layers": 3, "sliding_window": 4}
    tensors = {f"model.layers.{n}.w": torch.ones(2) for n in range(3)}
    model = write_checkpoint(tmp_path / "m", tensors, config)
    assert checked(stack((model, 0, 3), (model, 1, 3)), tmp_path).layer_count == 5


@pytest.mark.parametrize("change", [{"hidden_size": "many"}, {"num_attention_heads": 0}, {"layer_types": ["odd"] * 4}])
def test_what_transformers_refuses_of_the_donor_is_not_the_merges_fault(
    change: dict[str, object], tmp_path: Path
) -> None:
    """A checkpoint may be newer than the library; neither is it a traceback."""
    model = FAMILIES["Qwen3"].save(tmp_path / "m", 1)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))
    assert checked(stack((model, 0, 3), (model, 1, 4)), tmp_path).layer_count == 6
