"""The published variants under ``recipes/hub`` plan to exactly the published layer orders and scales.

The real checkpoints are replaced by small ones of the same layer counts, in local folders called like the Hub ids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from merge_assets import api
from merge_assets.plan import Plan
from merge_assets.plan.describe import source_layers
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.synthetic import write_llama

HUB_RECIPES = Path(__file__).parents[2] / "recipes" / "hub"


def workspace(root: Path, layers: Mapping[str, int], **edits: Mapping[str, torch.Tensor]) -> api.Workspace:
    for number, (name, count) in enumerate(layers.items()):
        folder = write_llama(root / name, count, seed=number, edit=edits.get("edit"))
        if name.startswith("mistralai/"):
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | MISTRAL_CONFIG))
    return api.Workspace.open(Settings(root=root, recipes=[HUB_RECIPES], store=str(root / "store")))


def plan_of(name: str, root: Path, layers: Mapping[str, int]) -> Plan:
    space = workspace(root, layers)
    return api.plan(space, space.recipe(name))


def orders(plan: Plan) -> list[int]:
    return [layers[0] for layers in source_layers(plan)]


MISTRAL_CONFIG = {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "sliding_window": 4096,
    "max_position_embeddings": 32768,
}
MISTRAL = {"mistralai/Mistral-7B-v0.1": 32}


def test_depth_upscaling(tmp_path: Path) -> None:
    assert orders(plan_of("solar-10.7b-dus", tmp_path, MISTRAL)) == [*range(24), *range(8, 32)]


def test_interlocked_by_blocks_of_eight(tmp_path: Path) -> None:
    expected = [*range(8), *range(8, 16), *range(8, 16), *range(16, 24), *range(16, 24), *range(24, 32)]
    assert orders(plan_of("solar-10.7b-idus-8layer", tmp_path, MISTRAL)) == expected


def test_interlocked_by_single_layers(tmp_path: Path) -> None:
    expected = [layer for a, b in zip(range(24), range(8, 32), strict=True) for layer in (a, b)]
    assert orders(plan_of("solar-10.7b-idus-1layer", tmp_path, MISTRAL)) == expected


@pytest.mark.parametrize("name", ["solar-10.7b-dus", "solar-10.7b-idus-1layer", "solar-10.7b-idus-8layer"])
def test_upscaled_config_and_names(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, tmp_path, MISTRAL)
    assert plan.config["num_hidden_layers"] == 48
    assert (plan.config["model_type"], plan.config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    for tensor in plan.tensors:
        if tensor.layer is not None:
            source = tensor.inputs[0]
            assert tensor.is_copy
            assert source.header.name == tensor.name.replace(f".{tensor.layer}.", f".{source.layer}.")


def test_the_base_of_the_stacks_is_mistral_under_the_name_of_llama(tmp_path: Path) -> None:
    plan = plan_of("llama2-init-mistral", tmp_path, MISTRAL)
    assert all(tensor.is_copy for tensor in plan.tensors) and orders(plan) == [*range(32)]
    assert plan.config["max_position_embeddings"] == 32768 and "sliding_window" not in plan.config
    (warning,) = plan.warnings
    assert warning.startswith("architecture LlamaForCausalLM: sliding_window 4096 is left out, as the recipe says")


def test_scaled_passthrough(tmp_path: Path) -> None:
    plan = plan_of("fimbulvetr-11b-enhanced", tmp_path, {"Sao10K/Fimbulvetr-11B-v2": 48})
    assert orders(plan) == [*range(47)]
    scales = [1.0, 1.5, 1.5, 2.0, 2.0, 2.5, 2.5, 3.0, 3.0, 3.5, 3.5, 4.0]
    for tensor in plan.tensors:
        scaled = "o_proj" in tensor.name or "down_proj" in tensor.name
        expected = scales[min(tensor.layer // 4, 11)] if scaled and tensor.layer is not None else 1.0
        assert tensor.inputs[0].parameters.get("scale", 1.0) == expected, tensor.name
    dropped = {(d.tensor.split(".")[2], d.reason) for d in plan.dropped}
    assert dropped == {("47", "layer 47 is in no slice")}


def test_slerp_gradients(tmp_path: Path) -> None:
    models = {"ContextualAI/Contextual_KTO_Mistral_PairRM": 32, "Gille/StrangeMerges_30-7B-slerp": 32}
    plan = plan_of("strange-merges-34-7b-slerp", tmp_path, models)
    assert plan.models[plan.donor].reference == "ContextualAI/Contextual_KTO_Mistral_PairRM"

    def gradient(values: list[float], layer: int) -> float:
        x = layer / 31 * (len(values) - 1)
        k = math.floor(x)
        return (1 - (x - k)) * values[k] + (x - k) * values[min(len(values) - 1, k + 1)]

    for tensor in plan.tensors:
        if tensor.layer is not None and "self_attn" in tensor.name:
            expected = gradient([0, 0.5, 0.3, 0.7, 0.7], tensor.layer)
        elif tensor.layer is not None and "mlp" in tensor.name:
            expected = gradient([1, 0.5, 0.7, 0.3, 0], tensor.layer)
        else:
            expected = 0.5
        assert tensor.parameters["t"] == pytest.approx(expected, abs=1e-12), tensor.name
        assert tensor.base == 0
        assert tensor.dtype == "BF16"


@pytest.mark.slow
def test_pruning_by_infinite_snr(tmp_path: Path) -> None:
    """Sixteen layers have a v_proj with a nearly flat spectrum; the others' smallest singular value is 0."""
    flat = {3, 4, 7, 9, 12, 15, 20, 21, 28, 33, 34, 40, 44, 51, 55, 58}
    rows = torch.eye(4, 16)
    spread = torch.diag(torch.tensor([3.3, 3.2, 3.1, 3.0])) @ rows
    low_rank = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0])) @ rows
    edit = {
        f"model.layers.{layer}.self_attn.v_proj.weight": (spread if layer in flat else low_rank).bfloat16()
        for layer in range(60)
    }
    space = workspace(tmp_path, {"Mihaiii/Pallas-0.5": 60}, edit=edit)
    analysed = api.analyse(space, ModelReference("Mihaiii/Pallas-0.5"), modules=["self_attn.v_proj"])
    assert analysed.artifact.manifest.details["weights"] == 60
    plan = api.plan(space, space.recipe("cluj-napoca-0.2"))
    assert orders(plan) == [layer for layer in range(60) if layer not in flat]
    assert plan.layer_count == 44
    assert [figure["layer"] for figure in plan.removed_layers] == sorted(flat)
    assert all(figure["infinite"] and figure["margin"] > 1 for figure in plan.removed_layers)
