"""Contract: layers that would compute otherwise in new places are said, by what transformers itself makes of the configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from merge_assets.checkpoint import open_checkpoint
from merge_assets.plan import PlanInput, build_plan
from merge_assets.recipe import load_recipe
from merge_assets.variant import agreement
from merge_assets.variant.depth import moved_layers
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


def said(model: Path, ranges: list[list[int]], tmp_path: Path) -> tuple[str, ...]:
    slices = "".join(f"- sources: [{{model: {model}, layer_range: {span}}}]\n" for span in ranges)
    (tmp_path / "r.yaml").write_text(f"merge_method: passthrough\nslices:\n{slices}")
    recipe = load_recipe(tmp_path / "r.yaml")
    inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
    return moved_layers(build_plan(recipe, inputs), inputs)


def saved(name: str, settings: dict[str, Any], folder: Path) -> Path:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    return folder


def test_a_number_that_hangs_on_the_place_of_a_layer(tmp_path: Path) -> None:
    model = saved("DiffLlama", SMALL, tmp_path / "m")
    (text,) = said(model, [[0, 1], [2, 4]], tmp_path)
    # 0.8 - 0.6 exp(-0.3 l), by the paper (2410.05258)
    assert text.startswith("layer 1 computes with self_attn.lambda_init 0.3555, and with 0.4707 as layer 2 of ")
    assert "and so 1 more" in text
    assert said(model, [[0, 4]], tmp_path) == ()


def test_a_number_that_hangs_on_how_many_there_are(tmp_path: Path) -> None:
    model = saved("MiniCPM3", SMALL | LATENT, tmp_path / "m")
    (text,) = said(model, [[0, 4], [3, 4]], tmp_path)
    assert text.startswith(
        "layer 0 computes with residual_scale 0.6261, and with 0.7 as layer 0 of "
    )  # 1.4 / sqrt(5), sqrt(4)
    assert "and so 4 more" in text


def test_kinds_of_layers_that_the_config_lists_move_with_it(tmp_path: Path) -> None:
    model = saved("Gemma2", SMALL | {"head_dim": 8, "sliding_window": 8}, tmp_path / "m")
    assert said(model, [[0, 1], [2, 4]], tmp_path) == ()


def test_nobody_is_asked_for_a_family_that_computes_alike_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "ask", None)
    assert said(write_llama(tmp_path / "m", 4), [[0, 3], [1, 4]], tmp_path) == ()
