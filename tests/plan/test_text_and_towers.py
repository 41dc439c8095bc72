"""Contract: models of different classes are merged where their tensors are of one role: text with the language part of what
also sees, bodies with heads and without, experts and projections together and apart. Transformers loads what comes out as it
loads the donor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.parameter_table import parameter_table
from tests.merging import merge_text, plan_text
from tests.synthetic import read_tensors

pytestmark = pytest.mark.slow

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIGHT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def gemma3() -> tuple[Any, Any, Any, Any]:
    text = {**TEXT, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
    both = transformers.Gemma3Config(
        text_config=text, vision_config={**SIGHT, "vision_use_head": False}, mm_tokens_per_image=4, image_token_index=60
    )
    return transformers.Gemma3ForConditionalGeneration, both, transformers.Gemma3ForCausalLM, both.text_config


def mistral3() -> tuple[Any, Any, Any, Any]:
    both = transformers.Mistral3Config(
        text_config={**TEXT, "model_type": "mistral", "tie_word_embeddings": False},
        vision_config={**SIGHT, "model_type": "pixtral", "head_dim": 8},
        image_token_index=60,
        tie_word_embeddings=False,
    )
    return transformers.Mistral3ForConditionalGeneration, both, transformers.MistralForCausalLM, both.text_config


def qwen2_5_vl() -> tuple[Any, Any, Any, Any]:
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    both = transformers.Qwen2_5_VLConfig(
        text_config={
            **text,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "depth": 2,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 8,
            "fullatt_block_indexes": [1],
            "window_size": 32,
        },
        image_token_id=60,
        tie_word_embeddings=False,
    )
    alone = transformers.Qwen2Config(**text, tie_word_embeddings=False)
    return transformers.Qwen2_5_VLForConditionalGeneration, both, transformers.Qwen2ForCausalLM, alone


FAMILIES = {"Gemma 3": gemma3, "Mistral 3": mistral3, "Qwen2.5-VL": qwen2_5_vl}


def saved(kind: Any, config: Any, folder: Path, seed: int, *, as_in_memory: bool = False) -> Path:
    """A model in files; transformers writes the names that the Hub's files have, which are older than those in memory."""
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    if as_in_memory:
        stored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if config.tie_word_embeddings:
            del stored["lm_head.weight"]
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return folder


def loaded_without_a_word(kind: Any, folder: Path) -> None:
    _, info = kind.from_pretrained(folder, output_loading_info=True)
    assert {key: list(found) for key, found in info.items() if found} == {}


def role(name: str) -> str:
    """A name without what may stand in front of it here."""
    words = name.split(".")
    while words[0] in ("model", "language_model"):
        del words[0]
    return ".".join(words)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layer_map_has_rows_for_the_tower_and_the_projector(family: str, tmp_path: Path) -> None:
    kind, config, text_kind, text_config = FAMILIES[family]()
    both, text = saved(kind, config, tmp_path / "both", 0), saved(text_kind, text_config, tmp_path / "text", 1)
    recipe = (
        f"merge_method: task_arithmetic\nbase_model: {both}\n"
        f"models: [{{model: {text}, parameters: {{weight: [0.5, 1]}}}}]\n"
    )
    plan = plan_text(recipe, tmp_path)
    rows = {(row.part, row.output): row.sources for row in layer_map(plan)}
    head = {} if config.tie_word_embeddings else {("text", "head"): "both (base) + text"}
    assert rows == {
        ("text", "before the layers"): "both (base) + text",
        ("text", "0–3"): "both 0–3 (base) + text 0–3",
        ("text", "after the layers"): "both (base) + text",
        **head,
        ("vision tower", "0–1"): "both, unchanged",
        ("projector", "all"): "both, unchanged",
    }
    assert [(row.model, row.of, row.value) for row in parameter_table(plan)] == [
        ("both", "", "the base"),
        ("text", "outside the layers", "0.5"),
        ("text", "layers", "0.5…1"),
    ]


@pytest.mark.parametrize("as_in_memory", [False, True], ids=["the Hub's names", "names in memory"])
@pytest.mark.parametrize("donor", ["text", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_the_language_part_of_what_sees(family: str, donor: str, as_in_memory: bool, tmp_path: Path) -> None:
    kind, config, text_kind, text_config = FAMILIES[family]()
    folders = {
        "both": saved(kind, config, tmp_path / "both", 0, as_in_memory=as_in_memory),
        "text": saved(text_kind, text_config, tmp_path / "text", 1),
    }
    other = "text" if donor == "both" else "both"
    recipe = (
        f"merge_method: task_arithmetic\nbase_model: {folders[donor]}\n"
        f"models: [{{model: {folders[other]}, parameters: {{weight: 0.5}}}}]\n"
    )
    out = merge_text(recipe, tmp_path)
    found, base, tuned = read_tensors(out), read_tensors(folders[donor]), read_tensors(folders[other])
    assert found.keys() == base.keys(), "the donor's names"
    by_role: Mapping[str, torch.Tensor] = {role(name): tensor for name, tensor in tuned.items()}
    merged = 0
    for name, tensor in found.items():
        if role(name) in by_role:
            merged += 1
            expected = base[name].double() + 0.5 * (by_role[role(name)].double() - base[name].double())
            torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)
        else:
            assert torch.equal(tensor, base[name]), f"{name} is the donor's"
    assert merged >= 4 * 9 + 2
    loaded_without_a_word(kind if donor == "both" else text_kind, out)
    told = plan_text(recipe, tmp_path)
    alike = family == "Qwen2.5-VL" and not as_in_memory  # whose files have the names of a model of text
    assert any(one.what == "renamed" for one in told.decisions) is not alike
    if donor == "both":
        assert any("unchanged" in warning for warning in told.warnings)
    else:
        assert any("vision" in dropped.tensor or "visual" in dropped.tensor for dropped in told.dropped)


# -- other classes --------------------------------------------------------------------------------------------------------

Side = tuple[str, str, dict[str, Any]]
"""Class of the model, class of the config, its arguments."""

ENCODER: dict[str, Any] = {name: TEXT[name] for name in TEXT if name not in ("num_key_value_heads", "head_dim")}
MIXTURE: dict[str, Any] = {
    **TEXT,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "tie_word_embeddings": False,
}
ROTARY = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
EYES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "depth": 2,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 8,
    "deepstack_visual_indexes": [1],
    "num_position_embeddings": 16,
}
UNTIED = {**TEXT, "tie_word_embeddings": False}


def seeing(text: dict[str, Any]) -> dict[str, Any]:
    return {"text_config": {**text, "rope_parameters": ROTARY}, "vision_config": EYES, "tie_word_embeddings": False}


CODERS: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
PAIRS: dict[str, tuple[Side, Side]] = {
    "T5: both, encoder": (
        ("T5ForConditionalGeneration", "T5Config", CODERS),
        ("T5EncoderModel", "T5Config", CODERS),
    ),
    "mT5: both, classifier of tokens": (
        ("MT5ForConditionalGeneration", "MT5Config", {**CODERS, "tie_word_embeddings": False}),
        ("MT5ForTokenClassification", "MT5Config", CODERS),
    ),
    "UMT5: both, encoder": (
        ("UMT5ForConditionalGeneration", "UMT5Config", CODERS),
        ("UMT5EncoderModel", "UMT5Config", CODERS),
    ),
    "BERT: classifier, masked words": (
        ("BertForSequenceClassification", "BertConfig", ENCODER),
        ("BertForMaskedLM", "BertConfig", ENCODER),
    ),
    "RoBERTa: classifier, body": (
        ("RobertaForSequenceClassification", "RobertaConfig", ENCODER),
        ("RobertaModel", "RobertaConfig", ENCODER),
    ),
    "ModernBERT: token classifier, masked words": (
        ("ModernBertForTokenClassification", "ModernBertConfig", {**ENCODER, "reference_compile": False}),
        ("ModernBertForMaskedLM", "ModernBertConfig", {**ENCODER, "reference_compile": False}),
    ),
    "Qwen3: reward, chat": (
        ("Qwen3ForSequenceClassification", "Qwen3Config", {**UNTIED, "num_labels": 1}),
        ("Qwen3ForCausalLM", "Qwen3Config", UNTIED),
    ),
    "Phi-3, Mistral": (
        ("Phi3ForCausalLM", "Phi3Config", {name: UNTIED[name] for name in UNTIED if name != "head_dim"}),
        ("MistralForCausalLM", "MistralConfig", UNTIED),
    ),
    "Qwen3-VL, Qwen3": (
        ("Qwen3VLForConditionalGeneration", "Qwen3VLConfig", seeing(UNTIED)),
        ("Qwen3ForCausalLM", "Qwen3Config", UNTIED),
    ),
    "Qwen3-VL-MoE, Qwen3-MoE": (
        ("Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeConfig", seeing(MIXTURE)),
        ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", MIXTURE),
    ),
}
WRAPPERS = ("model", "language_model", "bert", "roberta", "transformer")


def by_role(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors in pieces that are the same for all classes, projections and experts apart."""
    pieces: dict[str, torch.Tensor] = {}
    for full, tensor in found.items():
        words = full.split(".")
        while words[0] in WRAPPERS:
            del words[0]
        name, heights = ".".join(words), [32, 16, 16]  # of query, key and value
        if "visual" not in name and "qkv_proj" in name:
            parts = zip(("q_proj", "k_proj", "v_proj"), tensor.split(heights), strict=True)
            pieces.update({name.replace("qkv_proj", part): rows for part, rows in parts})
        elif tensor.ndim == 3 and "experts" in name:
            stack = tensor if tensor.shape[1:] in ((24, 32), (32, 12)) else tensor.mT
            for number, matrix in enumerate(stack):
                at = name.replace("experts", f"experts.{number}")
                both = zip(("gate_proj", "up_proj"), matrix.chunk(2), strict=True)
                apart = (
                    {at.replace("gate_up_proj", part): rows for part, rows in both} if "gate_up" in at else {at: matrix}
                )
                pieces.update({f"{part}.weight": rows for part, rows in apart.items()})
        elif "gate_up_proj" in name:
            both = zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True)
            pieces.update({name.replace("gate_up_proj", part): rows for part, rows in both})
        else:
            pieces[name] = tensor
    return pieces


@pytest.mark.parametrize("donor_is", ["first", "second"])
@pytest.mark.parametrize("pair", PAIRS)
def test_models_of_different_classes(pair: str, donor_is: str, tmp_path: Path) -> None:
    sides = PAIRS[pair] if donor_is == "first" else PAIRS[pair][::-1]
    (kind, config, settings), (other_kind, other_config, other_settings) = sides
    donor_kind = getattr(transformers, kind)
    donor = saved(donor_kind, getattr(transformers, config)(**settings), tmp_path / "a", 0)
    other = saved(
        getattr(transformers, other_kind), getattr(transformers, other_config)(**other_settings), tmp_path / "b", 1
    )
    recipe = f"merge_method: task_arithmetic\nbase_model: {donor}\n"
    out = merge_text(f"{recipe}models: [{{model: {other}, parameters: {{weight: 0.5}}}}]\n", tmp_path)
    assert read_tensors(out).keys() == read_tensors(donor).keys(), "the donor's names"
    found, base, tuned = (by_role(read_tensors(folder)) for folder in (out, donor, other))
    for name, tensor in found.items():
        expected = base[name].double()
        if name in tuned:
            expected += 0.5 * (tuned[name].double() - expected)
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)
    assert len(found.keys() & tuned.keys()) >= 15
    loaded_without_a_word(donor_kind, out)


def test_what_an_encoder_alone_lacks_is_said(tmp_path: Path) -> None:
    config = transformers.T5Config(**CODERS)
    both = saved(transformers.T5ForConditionalGeneration, config, tmp_path / "both", 0)
    alone = saved(transformers.T5EncoderModel, config, tmp_path / "alone", 1)
    recipe = "merge_method: linear\nmodels: [{{model: {}}}, {{model: {}}}]\nparameters: {{weight: 1}}\n"
    said = f"module decoder is not in all models, so it is that of {both}, unchanged"
    assert said in plan_text(recipe.format(both, alone), tmp_path).warnings
    dropped = plan_text(recipe.format(alone, both), tmp_path).dropped
    assert {one.reason for one in dropped if ".block." in one.tensor} == {
        f"{alone}, whose class the variant has, has no decoder"
    }
    assert all(one.tensor.startswith("decoder.") for one in dropped)
