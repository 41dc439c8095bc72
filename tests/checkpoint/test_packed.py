"""Weights in codes of four bits that stand for exact numbers are read as these numbers; what is not exact is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge_assets.errors import MergeAssetsError
from tests.adapter_support import merge_recipe, passthrough, plan_recipe
from tests.synthetic import read_tensors, write_checkpoint

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
EXPERTS, HIDDEN, INNER = 3, 64, 96
GATE_UP, DOWN = (f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj"))
MATRIX = "model.layers.0.mlp.experts.0.up_proj.weight"
NORM = {"model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)}


def some_bytes(*shape: int, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high, shape, dtype=torch.uint8, generator=generator)


def in_order(codes: torch.Tensor) -> np.ndarray:
    """The codes in bytes, the low half of each first, in the last dimension."""
    raw = codes.contiguous().view(torch.uint8).numpy()
    return np.stack((raw & 15, raw >> 4), axis=-1).reshape(*raw.shape[:-1], -1)


def write_packed(folder: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Path:
    config = {"num_hidden_layers": 1, "torch_dtype": "bfloat16", "quantization_config": dict(settings)}
    return write_checkpoint(folder, {**NORM, **tensors}, config)


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts as gpt-oss has them."""
    tensors = {}
    for name, outputs, inputs in ((GATE_UP, 2 * INNER, HIDDEN), (DOWN, HIDDEN, INNER)):
        tensors[f"{name}_blocks"] = some_bytes(EXPERTS, outputs, inputs // 32, 16)
        tensors[f"{name}_scales"] = some_bytes(EXPERTS, outputs, inputs // 32, low=100, high=140)
        tensors[f"{name}_bias"] = torch.ones(EXPERTS, outputs, dtype=torch.bfloat16)
    return write_packed(tmp_path_factory.mktemp("packed") / "model", tensors, {"quant_method": "mxfp4"})


def formula(stored: Mapping[str, torch.Tensor], name: str) -> np.ndarray:
    """What a stack of experts stands for, in float64."""
    values = E2M1[in_order(stored[f"{name}_blocks"])]
    exponents = stored[f"{name}_scales"].numpy().astype(np.float64) - 127
    numbers = values * 2 ** exponents[..., None]
    return numbers.reshape(*numbers.shape[:2], -1).transpose(0, 2, 1)


def test_experts_in_mxfp4_are_written_as_the_numbers_that_they_stand_for(gpt_oss: Path, tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    out = merge_recipe(passthrough(gpt_oss, "bfloat16"), tmp_path)
    stored, ours = read_tensors(gpt_oss), read_tensors(out)
    assert set(ours) == {*NORM, *(f"{name}{suffix}" for name in (GATE_UP, DOWN) for suffix in ("", "_bias"))}
    assert "quantization_config" not in (out / "config.json").read_text()
    for name in (GATE_UP, DOWN):
        assert ours[name].dtype == torch.bfloat16
        assert np.array_equal(ours[name].double().numpy(), formula(stored, name))
        theirs = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"])
        assert torch.equal(ours[name], theirs)


def test_without_a_dtype_the_numbers_have_that_of_the_config(gpt_oss: Path, tmp_path: Path) -> None:
    plan = plan_recipe(f"merge_method: passthrough\nmodels: [{{model: {gpt_oss}}}]\n", tmp_path)
    found = {tensor.name: (tensor.dtype, tensor.shape) for tensor in plan.tensors}
    assert found[GATE_UP] == ("BF16", (EXPERTS, HIDDEN, 2 * INNER))
    assert found[DOWN] == ("BF16", (EXPERTS, INNER, HIDDEN))
    assert not plan.dropped


def test_a_packed_model_merges_with_one_that_is_not_whatever_the_tiles(gpt_oss: Path, tmp_path: Path) -> None:
    stored = read_tensors(gpt_oss)
    exact = {name: formula(stored, name) for name in (GATE_UP, DOWN)}
    plain = {name: torch.tensor(value[:, ::-1].astype(np.float32)).contiguous() for name, value in exact.items()}
    biases = {name: tensor for name, tensor in stored.items() if name.endswith("_bias")}
    other = write_checkpoint(tmp_path / "other", {**NORM, **biases, **plain}, {"num_hidden_layers": 1})
    models = f"dtype: float32\nmodels: [{{model: {other}}}, {{model: {gpt_oss}}}]\n"
    mean = read_tensors(merge_recipe(f"merge_method: linear\n{models}parameters: {{weight: 1}}\n", tmp_path))
    for name, value in exact.items():
        assert np.array_equal(mean[name].numpy(), ((value + value[:, ::-1]) / 2).astype(np.float32))
    recipe = f"merge_method: slerp\nbase_model: {other}\n{models}parameters: {{t: 0.5}}\n"  # sweeps twice
    whole = (merge_recipe(recipe, tmp_path, threads=1) / "model.safetensors").read_bytes()
    for options in ({"threads": 4}, {"threads": 1, "tile": 1031}):
        assert (merge_recipe(recipe, tmp_path, **options) / "model.safetensors").read_bytes() == whole


def test_int4_codes_of_compressed_tensors_are_read(tmp_path: Path) -> None:
    # As Kimi-K2-Thinking is published: groups of 32, scales in bfloat16.
    codes, scales = some_bytes(6, 32).view(torch.int32), torch.rand(6, 2).bfloat16() + 0.5
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights}},
    }
    stored = {f"{MATRIX}_packed": codes, f"{MATRIX}_scale": scales, f"{MATRIX}_shape": torch.tensor([6, 64])}
    model = write_packed(tmp_path / "model", stored, settings)
    ours = read_tensors(merge_recipe(passthrough(model), tmp_path))
    exact = (in_order(codes).astype(np.float64) - 8) * scales.double().numpy().repeat(32, axis=1)
    assert np.array_equal(ours[MATRIX].double().numpy(), exact)
    assert {item.tensor for item in plan_recipe(passthrough(model), tmp_path).dropped} == {f"{MATRIX}_shape"}
    small = merge_recipe(passthrough(model), tmp_path, threads=1, tile=1031)
    assert torch.equal(read_tensors(small)[MATRIX], ours[MATRIX])


@pytest.mark.parametrize(
    ("name", "scale", "dtype", "settings"),
    [
        (f"{MATRIX}_packed", f"{MATRIX}_scale", torch.uint8, {"quant_method": "compressed-tensors"}),
        (MATRIX, f"{MATRIX}_scale_inv", torch.int8, {"quant_method": "fp8"}),
        (MATRIX, MATRIX.replace("weight", "scale"), torch.int8, {"quant_method": "fp8"}),
    ],
    ids=["compressed-tensors", "DeepSeek-V4 in transformers", "DeepSeek-V4 as published"],
)
def test_mxfp4_in_the_layout_of_the_weight_is_read(
    name: str, scale: str, dtype: torch.dtype, settings: dict[str, Any], tmp_path: Path
) -> None:
    codes, powers = some_bytes(5, 32), some_bytes(5, 2, low=110, high=130)
    kind = torch.uint8 if dtype == torch.uint8 else torch.float8_e8m0fnu
    model = write_packed(tmp_path / "model", {name: codes.view(dtype), scale: powers.view(kind)}, settings)
    ours = read_tensors(merge_recipe(passthrough(model), tmp_path))
    assert set(ours) == {*NORM, MATRIX}
    exact = E2M1[in_order(codes)] * 2.0 ** (powers.numpy().astype(np.float64) - 127).repeat(32, axis=1)
    assert np.array_equal(ours[MATRIX].double().numpy(), exact)


CODES = {f"{MATRIX}_packed": some_bytes(6, 32).view(torch.int32), f"{MATRIX}_scale": torch.ones(6, 2)}


@pytest.mark.parametrize(
    ("extra", "weights", "reason"),
    [
        ({f"{MATRIX}_zero_point": torch.ones(6, 2)}, {}, f"zero points (tensor {MATRIX}_zero_point)"),
        ({f"{MATRIX}_g_idx": torch.ones(64)}, {}, f"columns in another order (tensor {MATRIX}_g_idx)"),
        ({f"{MATRIX}_global_scale": torch.ones(1)}, {}, "a second scale for the whole tensor (NVFP4)"),
        ({}, {"num_bits": 8, "type": "int"}, "packed codes of num_bits 8, type int"),
        ({}, {"num_bits": 4, "type": "int", "group_size": 48}, "packed codes of no known layout"),
        ({f"{MATRIX}_scale": torch.ones(6, 3)}, {}, "packed codes of no known layout"),
        ({f"{MATRIX}_scale": torch.ones(5, 2)}, {}, "packed codes of no known layout"),
    ],
)
def test_codes_that_are_not_read_are_refused_by_name(
    extra: dict[str, torch.Tensor], weights: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    groups = {"config_groups": {"a": {"weights": weights}}} if weights else {}
    settings = {"quant_method": "compressed-tensors"} | groups
    model = write_packed(tmp_path / "model", CODES | extra, settings)
    with pytest.raises(MergeAssetsError) as caught:
        plan_recipe(passthrough(model), tmp_path)
    assert reason in str(caught.value) and str(model) in str(caught.value)


@pytest.mark.parametrize("scales", [None, torch.ones(EXPERTS, HIDDEN, 2, dtype=torch.uint8)])
def test_blocks_without_scales_of_their_shape_are_refused(scales: torch.Tensor | None, tmp_path: Path) -> None:
    stored = {f"{DOWN}_blocks": some_bytes(EXPERTS, HIDDEN, 3, 16)}
    if scales is not None:
        stored[f"{DOWN}_scales"] = scales
    model = write_packed(tmp_path / "model", stored, {"quant_method": "mxfp4"})
    with pytest.raises(MergeAssetsError, match="packed codes of no known layout"):
        plan_recipe(passthrough(model), tmp_path)


def test_weights_of_8_bits_without_scales_are_the_numbers_themselves(tmp_path: Path) -> None:
    # As text encoders and transformers of diffusers are published.
    tensors = {"a.weight": torch.arange(6).reshape(2, 3).to(torch.float8_e4m3fn), "b.weight": torch.ones(4)}
    model = write_checkpoint(tmp_path / "model", tensors, {"torch_dtype": "bfloat16"})
    other = write_checkpoint(tmp_path / "other", {name: torch.ones_like(t.float()) for name, t in tensors.items()}, {})
    recipe = f"merge_method: linear\nmodels: [{{model: {model}}}, {{model: {other}}}]\nparameters: {{weight: 1}}\n"
    merged = read_tensors(merge_recipe(recipe, tmp_path))
    assert merged["a.weight"].dtype == torch.bfloat16
    assert torch.equal(merged["a.weight"].double(), (torch.arange(6).reshape(2, 3).double() + 1) / 2)
    widened = read_tensors(merge_recipe(passthrough(model), tmp_path))["a.weight"]
    assert widened.dtype == torch.float32 and torch.equal(widened, torch.arange(6).reshape(2, 3).float())
    copied = merge_recipe(f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n", tmp_path)
    assert read_tensors(copied)["a.weight"].dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("rows", [6, 1])
def test_whole_numbers_of_8_bits_are_read(rows: int, tmp_path: Path) -> None:
    """As W8A8 models of compressed-tensors are published, a scale for each row or for all."""
    codes, scales = some_bytes(6, 64).view(torch.int8), torch.rand(rows, 1).bfloat16() + 0.5
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    model = write_packed(tmp_path / "model", {MATRIX: codes, f"{MATRIX}_scale": scales}, settings)
    ours = read_tensors(merge_recipe(passthrough(model), tmp_path))
    assert np.array_equal(ours[MATRIX].double().numpy(), codes.double().numpy() * scales.double().numpy())
    shifted = {MATRIX: codes, f"{MATRIX}_scale": scales, f"{MATRIX}_zero_point": torch.zeros(rows, 1, dtype=torch.int8)}
    with pytest.raises(MergeAssetsError, match="weight_zero_point"):
        plan_recipe(passthrough(write_packed(tmp_path / "shifted", shifted, settings)), tmp_path)
