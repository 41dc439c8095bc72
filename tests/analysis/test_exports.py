"""Contract: what the export for axolotl names exists in the model that axolotl trains; weights in 8 bits are scored as the
numbers that they stand for; of a model in a bucket only the tensors that are scored are fetched."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from merge_assets import api
from merge_assets.analysis.result import Analysis
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.analysis_support import reference_snr
from tests.architectures import Zoo
from tests.format_support import random_scales, spread, write_fp8
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

TRAINED = ["Llama", "Qwen2", "Gemma2", "Phi-3", "GPT-NeoX", "GPT-2", "Mixtral", "Qwen2-MoE", "Qwen3-MoE", "DeepSeek-V3"]


def analysed(root: Path, model: Path | str, out: Path, **settings: Any) -> Analysis:
    space = api.Workspace.open(Settings(root=root, threads=2, **settings))
    return api.snr(space, ModelReference.parse(str(model)), out)


def parameters_of(folder: Path) -> set[str]:
    """Of the class of a checkpoint, on the meta device."""
    config = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = kind(transformers.AutoConfig.from_pretrained(folder))
    return {name for name, _ in model.named_parameters()}


def check_export(folder: Path, out: Path) -> list[str]:
    """Every pattern matches the beginning of a parameter, as axolotl matches: dots literally."""
    patterns: list[str] = yaml.safe_load((out / "unfrozen_parameters.yaml").read_text())["unfrozen_parameters"]
    there = parameters_of(folder)
    assert patterns
    for pattern in patterns:
        assert any(re.match(pattern.replace(".", r"\."), name) for name in there), pattern
    return patterns


@pytest.mark.parametrize("name", TRAINED)
def test_every_pattern_of_the_export_is_a_parameter_of_the_class(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = Zoo(tmp_path_factory.mktemp("zoo")).siblings(name)[0]
    analysed(tmp_path, model, tmp_path / "out")
    check_export(model, tmp_path / "out")


def test_names_without_the_prefix_of_the_head_get_it(tmp_path: Path) -> None:
    """GPT-2 is published with the names of the class that has no head."""
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    settings = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(settings | {"architectures": ["GPT2LMHeadModel"]}))
    assert "h.0.attn.c_attn.weight" in load_file(tmp_path / "gpt2" / "model.safetensors")
    analysed(tmp_path, tmp_path / "gpt2", tmp_path / "out")
    patterns = check_export(tmp_path / "gpt2", tmp_path / "out")
    assert all(pattern.startswith("transformer.h.") for pattern in patterns)


def test_a_model_that_transformers_does_not_know_keeps_its_stored_names(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"model_type": "unheard_of"}))
    analysed(tmp_path, model, tmp_path / "out")
    text = (tmp_path / "out" / "unfrozen_parameters.yaml").read_text()
    assert "# names as stored" in text
    assert re.search(r"^- model\.layers\.\d\.self_attn\.v_proj$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("suffix", "scales", "block", "settings"),
    [
        (
            "weight_scale_inv",
            lambda rows, columns: random_scales(-(-rows // 8), -(-columns // 8)),
            (8, 8),
            {"quant_method": "fp8", "weight_block_size": [8, 8]},
        ),
        (
            "weight_scale",
            lambda rows, columns: random_scales(rows, 1),
            (1, 1 << 20),
            {"quant_method": "compressed-tensors"},
        ),
    ],
)
def test_weights_in_8_bits_have_the_scores_of_the_numbers_that_they_stand_for(
    suffix: str, scales: Any, block: tuple[int, int], settings: dict[str, object], tmp_path: Path
) -> None:
    model = write_fp8(tmp_path / "model", scales, settings, suffix=suffix)
    analysis = analysed(tmp_path, model, tmp_path / "out")
    stored = load_file(model / "model.safetensors")
    assert len(analysis.rows) == 14 and not analysis.notes
    for row in analysis.rows:
        weight = stored[row["tensor"]].float().numpy()
        scale = stored[row["tensor"].removesuffix("weight") + suffix]
        rows, columns = weight.shape
        factors = spread(scale, rows, columns, (min(block[0], rows), min(block[1], columns)))
        matrix = (weight * factors).astype(np.float32)
        snr, _, margin = reference_snr(matrix.astype(np.float64))
        assert row["snr"] == pytest.approx(snr, rel=1e-9)
        assert row["margin"] == pytest.approx(margin, rel=1e-6)
    check_export(model, tmp_path / "out")
    again = analysed(tmp_path, model, tmp_path / "out")
    assert again.reused == len(again.rows) and again.digest == analysis.digest


@pytest.mark.server
def test_of_a_model_in_a_bucket_the_tensors_that_are_scored_are_fetched(tmp_path: Path, rgw: Any, bucket: str) -> None:
    write_llama(tmp_path / "a", seed=1)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "double.yaml").write_text(
        "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: 2}}]\n"
    )
    given: dict[str, Any] = {"store": f"s3://{bucket}", "store_options": rgw.options()}
    space = api.Workspace.open(Settings(root=tmp_path, **given))
    api.build(space, space.recipe("double"))
    fresh = api.Workspace.open(Settings(root=tmp_path, cache_dir=tmp_path / uuid.uuid4().hex, **given))
    made = api.analyse(fresh, ModelReference("double"), modules=["v_proj"])
    rows = json.loads(made.artifact.read_bytes("snr.json"))["weights"]
    stored = load_file(tmp_path / "a" / "model.safetensors")
    wanted = {name: tensor for name, tensor in stored.items() if "v_proj" in name}
    assert {row["tensor"] for row in rows} == set(wanted)
    for row in rows:
        snr, _, margin = reference_snr(2 * wanted[row["tensor"]].double().numpy())
        assert row["margin"] == pytest.approx(margin, rel=1e-6)
        assert row["snr"] == (None if np.isinf(snr) else pytest.approx(snr, rel=1e-9))
    assert fresh.stored.fetched == sum(tensor.numel() * tensor.element_size() for tensor in wanted.values())
