"""Checkpoints in other formats: 8-bit weights read as numbers, pickles only where allowed, all else refused with a reason."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.checkpoint import Checkpoint, TensorHeader, open_checkpoint, read_quantised
from merge_assets.engine.dequantize import table
from merge_assets.engine.pickled import converted
from merge_assets.errors import CheckpointError, MergeAssetsError
from tests.adapter_support import merge_recipe, passthrough, plan_recipe
from tests.format_support import FP8, Scales, random_scales, spread, write_fp8
from tests.synthetic import llama_config, llama_shapes, read_tensors, write_checkpoint, write_llama

MATRIX = "model.layers.1.mlp.gate_proj.weight"

CASES: dict[str, tuple[Scales, dict[str, object], str, tuple[int, int] | None]] = {
    "blocks as DeepSeek-V3 has them": (
        lambda rows, columns: random_scales(-(-rows // 8), -(-columns // 5)),
        {"quant_method": "fp8", "weight_block_size": [8, 5], "fmt": "e4m3", "activation_scheme": "dynamic"},
        "weight_scale_inv",
        (8, 5),
    ),
    "blocks of 128 beyond the matrix": (
        lambda rows, columns: random_scales(1, 1),
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "weight_scale_inv",
        (128, 128),
    ),
    "one scale for each row (compressed-tensors, fbgemm)": (
        lambda rows, columns: random_scales(rows, 1, dtype=torch.bfloat16),
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        "weight_scale",
        (1, 10**6),
    ),
    "one scale for each row, flat": (
        lambda rows, columns: random_scales(rows),
        {"quant_method": "fbgemm_fp8"},
        "weight_scale",
        (1, 10**6),
    ),
    "one scale for the tensor": (
        lambda rows, columns: random_scales(1)[0],
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        "weight_scale",
        (10**6, 10**6),
    ),
    "blocks as compressed-tensors names them": (
        lambda rows, columns: random_scales(-(-rows // 4), -(-columns // 4)),
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"block_structure": [4, 4]}}}},
        "weight_scale",
        (4, 4),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quantised_inputs_of_8_bit_floats_are_dequantised(case: str, tmp_path: Path) -> None:
    scales, settings, suffix, block = CASES[case]
    model = write_fp8(tmp_path / "model", scales, settings, suffix=suffix)
    out = merge_recipe(passthrough(model), tmp_path)
    stored, ours = read_tensors(model), read_tensors(out)
    assert set(ours) == set(llama_shapes(2))
    for name in ours:
        exact = stored[name].double().numpy()
        if "_proj" in name:
            assert block is not None
            exact = exact * spread(stored[name.removesuffix("weight") + suffix], *exact.shape, block)
        assert np.array_equal(ours[name].numpy(), exact.astype(np.float32)), name
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float32"


def test_dequantised_weights_have_the_dtype_of_the_config_unless_the_recipe_says_more(tmp_path: Path) -> None:
    scales, settings, suffix, _ = CASES["one scale for the tensor"]
    model = write_fp8(tmp_path / "model", scales, settings, suffix=suffix)
    out = merge_recipe(f"merge_method: passthrough\nmodels:\n  - model: {model}\n", tmp_path)
    stored, ours = read_tensors(model), read_tensors(out)
    exact = stored[MATRIX].double() * stored[MATRIX.removesuffix("weight") + suffix].double()
    assert torch.equal(ours[MATRIX], exact.float().bfloat16())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
        ("F8_E4M3FNUZ", torch.float8_e4m3fnuz),
        ("F8_E5M2FNUZ", torch.float8_e5m2fnuz),
    ],
)
def test_every_byte_of_an_8_bit_format_has_its_value(name: str, dtype: torch.dtype) -> None:
    theirs = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    assert np.array_equal(table(name), theirs, equal_nan=True)


def test_scales_that_are_powers_of_two_in_a_byte_are_read(tmp_path: Path) -> None:
    def scales(rows: int, columns: int) -> torch.Tensor:
        powers = torch.arange(120, 120 + -(-rows // 8) * -(-columns // 8), dtype=torch.uint8)
        return powers.view(torch.float8_e8m0fnu).reshape(-(-rows // 8), -(-columns // 8))

    model = write_fp8(tmp_path / "model", scales, {"quant_method": "fp8", "weight_block_size": [8, 8]})
    ours, stored = read_tensors(merge_recipe(passthrough(model), tmp_path)), read_tensors(model)
    spreaded = spread(stored[f"{MATRIX}_scale_inv"].float(), *stored[MATRIX].shape, (8, 8))
    assert np.array_equal(ours[MATRIX].double().numpy(), stored[MATRIX].double().numpy() * spreaded)


def test_stacked_experts_have_scales_of_their_own(tmp_path: Path) -> None:
    weight = (torch.randn(3, 6, 10) * 50).to(FP8)
    per_row, per_expert, blocks = random_scales(3, 6, 1), random_scales(3), random_scales(3, 3, 5)
    for number, (scale, expected) in enumerate(
        (
            (per_row, per_row.double()),
            (per_expert, per_expert.double()[:, None, None]),
            (blocks, blocks.double().repeat_interleave(2, 1).repeat_interleave(2, 2)),
        )
    ):
        tensors = {"model.layers.0.experts.up": weight, "model.layers.0.experts.up_scale": scale}
        config = {"num_hidden_layers": 1, "quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}
        model = write_checkpoint(tmp_path / f"m{number}", tensors, config)
        ours = read_tensors(merge_recipe(passthrough(model), tmp_path))
        assert torch.equal(ours["model.layers.0.experts.up"].double(), (weight.double() * expected).float().double())


def test_a_quantised_model_merges_with_one_that_is_not(tmp_path: Path) -> None:
    scales, settings, suffix, block = CASES["blocks as DeepSeek-V3 has them"]
    quantised = write_fp8(tmp_path / "quantised", scales, settings, suffix=suffix)
    other = write_llama(tmp_path / "other", 2, seed=7)
    recipe = (
        "merge_method: linear\ndtype: float32\nmodels:\n"
        f"  - {{model: {other}, parameters: {{weight: 0.25}}}}\n"
        f"  - {{model: {quantised}, parameters: {{weight: 0.75}}}}\n"
    )
    whole = (merge_recipe(recipe, tmp_path, threads=1) / "model.safetensors").read_bytes()
    ours = read_tensors(merge_recipe(recipe, tmp_path))[MATRIX].double().numpy()
    for options in ({"threads": 4}, {"threads": 1, "tile": 1031}):
        assert (merge_recipe(recipe, tmp_path, **options) / "model.safetensors").read_bytes() == whole
    stored = read_tensors(quantised)
    assert block is not None
    values = stored[MATRIX].double().numpy()
    exact = values * spread(stored[f"{MATRIX}_scale_inv"], *values.shape, block)
    exact = 0.25 * read_tensors(other)[MATRIX].double().numpy() + 0.75 * exact
    assert np.abs(ours - exact).max() <= 2**-23 * np.abs(exact).max()


def test_scales_of_activations_are_listed_as_dropped(tmp_path: Path) -> None:
    scales, settings, suffix, _ = CASES["one scale for the tensor"]
    extra = {MATRIX.replace("weight", "input_scale"): torch.ones(1), "model.layers.0.self_attn.k_scale": torch.ones(1)}
    model = write_fp8(tmp_path / "model", scales, settings, suffix=suffix, extra=extra)
    plan = plan_recipe(passthrough(model), tmp_path)
    assert {item.tensor for item in plan.dropped} == set(extra)
    assert {item.reason for item in plan.dropped} == {"scale of activations of the quantised model"}
    assert not any("scale" in tensor.name for tensor in plan.tensors)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusal(model: object, folder: Path, **settings: Any) -> str:
    with pytest.raises(MergeAssetsError) as caught:
        plan_recipe(passthrough(model), folder, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


PACKED = {"model.layers.0.mlp.up_proj.qweight": torch.zeros(2, 2, dtype=torch.int32)}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised (gptq): it holds integers of a few bits"),
        ({"quant_method": "awq", "bits": 4}, "quantised (awq): it holds 4-bit integers"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "quantised (bitsandbytes): it holds 4- or 8-bit codes",
        ),
        ({"quant_method": "hqq"}, "quantised (hqq): it holds codes that are not read"),
        ({"quant_method": "compressed-tensors"}, "packed codes (tensor model.layers.0.mlp.up_proj.qweight, I32)"),
    ],
)
def test_quantised_inputs_that_cannot_be_read_are_refused_with_a_reason(
    settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    model = write_checkpoint(tmp_path / "model", PACKED, llama_config(1) | {"quantization_config": settings})
    message = refusal(model, tmp_path)
    assert reason in message
    assert "merge the unquantised checkpoint" in message


def test_a_weight_without_its_scale_is_refused(tmp_path: Path) -> None:
    tensors = {MATRIX: torch.zeros(4, 4, dtype=FP8)}
    config = llama_config(1) | {"quantization_config": {"quant_method": "fp8"}}
    message = refusal(write_checkpoint(tmp_path / "model", tensors, config), tmp_path)
    assert f"tensor {MATRIX} has no scale beside it" in message


def test_scales_of_no_known_shape_are_refused(tmp_path: Path) -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [8, 8]}
    model = write_fp8(tmp_path / "model", lambda rows, columns: torch.ones(7, 3), settings)
    message = refusal(model, tmp_path)
    assert "of shape [7, 3] are neither one for the whole" in message and "each block of 8×8" in message


SHAPES = st.lists(st.integers(0, 9), max_size=4)


@given(
    weight=SHAPES,
    scale=SHAPES,
    block=st.none() | st.lists(st.integers(-1, 9), max_size=3),
    dtype=st.sampled_from(["F8_E4M3", "I8", "F32"]),
)
@settings(max_examples=500)
def test_any_shape_of_scales_is_read_within_its_bounds_or_refused(
    weight: list[int], scale: list[int], block: list[int] | None, dtype: str
) -> None:
    def header(name: str, dtype: str, shape: list[int]) -> TensorHeader:
        return TensorHeader(name, dtype, tuple(shape), "model.safetensors", 0, 0)

    tensors = {"x.weight": header("x.weight", dtype, weight), "x.weight_scale": header("x.weight_scale", "F32", scale)}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": block}}
    try:
        found = read_quantised(Checkpoint("here", tensors, config, {}))
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    assert found is not None
    for scaled in found.weights.values():
        rows, columns = math.prod(weight[:-1]), weight[-1] if weight else 1
        if rows and columns:  # the last scale that the kernel looks up
            across = -(-columns // scaled.block[1])
            assert (rows - 1) // scaled.block[0] * across + (columns - 1) // scaled.block[1] == math.prod(scale) - 1


def test_gguf_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    assert "GGUF files are not read; use the safetensors checkpoint" in refusal(folder, tmp_path)


# -- pickles -----------------------------------------------------------------------------------------------------------


def pickled(folder: Path, shards: int = 1) -> Path:
    """A Llama in .bin files, and the same in safetensors beside it (``folder`` + ``-safe``)."""
    safe = write_llama(folder.with_name(f"{folder.name}-safe"), 2)
    tensors = read_tensors(safe)
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((safe / name).read_bytes())
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    names, weight_map = list(tensors), {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = names[number::shards]
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_pickled_weights_are_refused_and_the_way_out_is_named(tmp_path: Path) -> None:
    message = refusal(pickled(tmp_path / "model"), tmp_path)
    assert "pytorch_model.bin: pickled weights can run code when they are loaded" in message
    assert "--allow-pickle" in message and "allow_pickle = true" in message


@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights_are_read_where_allowed(shards: int, tmp_path: Path) -> None:
    model = pickled(tmp_path / "model", shards)
    settings = {"allow_pickle": True}
    ours = read_tensors(merge_recipe(passthrough(model, "bfloat16"), tmp_path, settings=settings))
    theirs = read_tensors(tmp_path / "model-safe")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (kept,) = (tmp_path / "var/cache/converted").iterdir()
    before = kept.stat().st_mtime_ns
    plan_recipe(passthrough(model), tmp_path, **settings)
    assert kept.stat().st_mtime_ns == before
    torch.save(read_tensors(tmp_path / "model-safe"), model / "pytorch_model.bin")
    plan_recipe(passthrough(model), tmp_path, **settings)
    assert len(list((tmp_path / "var/cache/converted").iterdir())) == 2


def test_a_pickled_adapter_is_read_where_allowed(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base", 1)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    name = "model.layers.0.self_attn.q_proj"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    factors = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    torch.save(factors, adapter / "adapter_model.bin")
    assert "adapter_model.bin: pickled weights can run code" in refusal(f"{base}+{adapter}", tmp_path)
    ours = read_tensors(merge_recipe(passthrough(f"{base}+{adapter}"), tmp_path, settings={"allow_pickle": True}))
    exact = read_tensors(base)[f"{name}.weight"].double() + 3 * up.double() @ down.double()
    assert torch.allclose(ours[f"{name}.weight"].double(), exact, rtol=0, atol=1e-6)


class Malicious:
    """Would make a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_is_more_than_tensors_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    model = pickled(tmp_path / "model")
    torch.save({"weight": torch.zeros(2), "evil": Malicious(tmp_path / "evil")}, model / "pytorch_model.bin")
    message = refusal(model, tmp_path, allow_pickle=True)
    assert "pytorch_model.bin: is not read, since it is damaged or holds more than tensors" in message
    assert not (tmp_path / "evil").exists()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(tmp_path / "evil")))
    assert "is not read" in refusal(model, tmp_path, allow_pickle=True)
    assert not (tmp_path / "evil").exists()
    torch.save({"model": {"weight": torch.zeros(2)}}, model / "pytorch_model.bin")
    assert "holds more than tensors by name" in refusal(model, tmp_path, allow_pickle=True)
    assert list((tmp_path / "var/cache/converted").glob("*")) == []


def test_an_index_of_pickles_names_only_files_beside_it(tmp_path: Path) -> None:
    model = pickled(tmp_path / "model", 2)
    index = model / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model-safe/pytorch_model-00001-of-00002.bin"}}))
    assert "which is missing; fetch that shard" in refusal(model, tmp_path, allow_pickle=True)
    index.write_text("[]")
    assert "is no index of shards" in refusal(model, tmp_path, allow_pickle=True)


# -- other folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_size", [None, 300])
def test_parts_of_diffusion_pipelines_merge(shard_size: int | None, tmp_path: Path) -> None:
    config = {"_class_name": "UNet2DConditionModel", "sample_size": 8}
    tensors = []
    for number in range(2):
        torch.manual_seed(number)
        tensors.append({"conv_in.weight": torch.randn(4, 3, 3, 3), "down_blocks.0.conv.bias": torch.randn(4)})
        folder = write_checkpoint(tmp_path / f"unet{number}", tensors[-1], config)
        (folder / "model.safetensors").rename(folder / "diffusion_pytorch_model.safetensors")
    recipe = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n" + "".join(
        f"  - model: {tmp_path}/unet{number}\n" for number in range(2)
    )
    out = merge_recipe(recipe, tmp_path, shard_size=shard_size)
    names = {path.name for path in out.glob("*safetensors*")}
    if shard_size is None:
        assert names == {"diffusion_pytorch_model.safetensors"}
    else:
        assert "diffusion_pytorch_model.safetensors.index.json" in names
        assert "diffusion_pytorch_model-00001-of-00002.safetensors" in names
        assert len(open_checkpoint(out).tensors) == 2
    ours = read_tensors(out)
    for name, tensor in tensors[0].items():
        assert torch.allclose(ours[name], (tensor + tensors[1][name]) / 2)
    written = json.loads((out / "config.json").read_text())
    assert written["_class_name"] == config["_class_name"] and written["sample_size"] == 8


def test_sentence_transformers_models_keep_their_modules(tmp_path: Path) -> None:
    tensors = {
        "embeddings.word_embeddings.weight": torch.randn(8, 4),
        "encoder.layer.0.output.dense.weight": torch.randn(4, 4),
        "pooler.dense.weight": torch.randn(4, 4),
    }
    config = {"architectures": ["BertModel"], "num_hidden_layers": 1, "vocab_size": 8}
    for number in range(2):
        folder = write_checkpoint(tmp_path / f"encoder{number}", {n: t + number for n, t in tensors.items()}, config)
        modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
        (folder / "config_sentence_transformers.json").write_text("{}")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "model.safetensors").write_bytes(b"dense")
        (folder / "elsewhere").mkdir()
        (folder / "elsewhere" / "notes.json").write_text("{}")
    recipe = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n" + "".join(
        f"  - model: {tmp_path}/encoder{number}\n" for number in range(2)
    )
    out = merge_recipe(recipe, tmp_path)
    assert (out / "1_Pooling/config.json").read_text() == '{"pooling_mode_mean_tokens": true}'
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        assert (out / name).read_bytes() == (tmp_path / "encoder0" / name).read_bytes()
    assert (out / "2_Dense/model.safetensors").read_bytes() == b"dense"
    assert any("2_Dense/model.safetensors is not merged" in text for text in plan_recipe(recipe, tmp_path).warnings)
    assert not (out / "elsewhere").exists()
    for name, tensor in read_tensors(out).items():
        assert torch.allclose(tensor, tensors[name] + 0.5)


@pytest.mark.parametrize("damage", ["a bit of the weights", "a bit of the record", "a file less", "the source"])
def test_a_conversion_that_is_not_as_it_was_made_is_made_again(damage: str, tmp_path: Path) -> None:
    """Times of modification tell nothing: they are put back."""
    folder, cache = pickled(tmp_path / "model"), tmp_path / "cache"
    made = converted(folder, cache)
    before = {name: tensor.clone() for name, tensor in read_tensors(made).items()}  # the file is written over
    source, weights = folder / "pytorch_model.bin", made / "model.safetensors"
    target = {"a bit of the record": made / ".conversion.json", "the source": source}.get(damage, weights)
    times = target.stat()
    if damage == "a file less":
        target.unlink()
    elif damage == "the source":
        torch.save({name: -tensor for name, tensor in before.items()}, source)
        os.truncate(source, times.st_size)
    else:
        data = bytearray(target.read_bytes())
        data[-9] ^= 1
        target.write_bytes(data)
    if target.exists():
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = read_tensors(converted(folder, cache))
    assert all(torch.equal(again[name], -before[name] if damage == "the source" else before[name]) for name in before)
