"""Contract: a variant is loaded as another class where that computes the same; what would compute otherwise is refused.

The oracle is transformers: both classes load their files without a word and give the very same logits in float64.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from merge_assets import api
from merge_assets.errors import PlanError
from merge_assets.settings import Settings
from tests.merging import merge_text, plan_text
from tests.synthetic import read_tensors

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MISTRAL, LLAMA = "MistralForCausalLM", "LlamaForCausalLM"


def saved(architecture: str, folder: Path, edit: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A model in files; keys of its config.json are those of ``edit``, and left out where they are ``None`` there."""
    kind = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = kind(kind.config_class(**(SMALL | settings))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | (edit or {})
    kept = {key: value for key, value in config.items() if value is not None or key not in (edit or {})}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def text_of(model: Path, architecture: str) -> str:
    return f"merge_method: passthrough\nmodels: [{{model: {model}}}]\narchitecture: {architecture}\n"


def logits(architecture: str, folder: Path, tokens: int = 24) -> torch.Tensor:
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert {key: list(found) for key, found in info.items() if found} == {}
    ids = torch.randint(3, 64, (1, tokens), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.mark.parametrize(("old", "new"), [(MISTRAL, LLAMA), (LLAMA, MISTRAL)])
def test_one_class_under_the_name_of_the_other(old: str, new: str, tmp_path: Path) -> None:
    window = {"sliding_window": 64} if old == MISTRAL else {}
    model = saved(old, tmp_path / "model", **window)
    out = merge_text(text_of(model, new), tmp_path)
    assert torch.equal(logits(new, out), logits(old, model))
    assert type(transformers.AutoModelForCausalLM.from_pretrained(out)).__name__ == new
    assert read_tensors(out).keys() == read_tensors(model).keys()


def test_a_window_that_texts_outgrow_is_refused_unless_the_recipe_wants_it(tmp_path: Path) -> None:
    model = saved(MISTRAL, tmp_path / "model", sliding_window=8)
    with pytest.raises(PlanError) as caught:
        plan_text(text_of(model, LLAMA), tmp_path)
    assert caught.value.key == "architecture"
    advice = re.search(r"write architecture: (\{.*\}) if that is meant", str(caught.value))
    assert advice and "beyond 8 tokens, of 64 at most, every token is then seen" in str(caught.value)
    plan = plan_text(text_of(model, advice[1]), tmp_path)
    assert any("sliding_window 8 is left out, as the recipe says" in warning for warning in plan.warnings)
    out = merge_text(text_of(model, advice[1]), tmp_path)
    assert torch.equal(logits(LLAMA, out, tokens=8), logits(MISTRAL, model, tokens=8))
    assert not torch.allclose(logits(LLAMA, out), logits(MISTRAL, model)), "beyond it, as was said"


def test_a_class_without_a_window_is_not_given_one(tmp_path: Path) -> None:
    """A Mistral config without the key has a window of 4096."""
    plan = plan_text(text_of(saved(LLAMA, tmp_path / "model"), MISTRAL), tmp_path)
    assert plan.config["sliding_window"] is None
    assert (
        "architecture MistralForCausalLM: sliding_window null is written, which LlamaForCausalLM has not"
        in plan.warnings
    )


def test_defaults_that_differ_are_written_out(tmp_path: Path) -> None:
    """Of a Mistral config, 8 key-value heads are the default; of a Llama one, as many as heads."""
    heads = {"num_attention_heads": 16, "head_dim": 2}
    model = saved(MISTRAL, tmp_path / "model", {"num_key_value_heads": None}, sliding_window=None, **heads)
    out = merge_text(text_of(model, LLAMA), tmp_path)
    assert json.loads((out / "config.json").read_text())["num_key_value_heads"] == 8
    assert torch.equal(logits(LLAMA, out), logits(MISTRAL, model))


def test_what_the_old_class_reads_past_does_not_count_for_the_new_one(tmp_path: Path) -> None:
    model = saved(MISTRAL, tmp_path / "model", {"attention_bias": True}, sliding_window=None)
    out = merge_text(text_of(model, LLAMA), tmp_path)
    assert torch.equal(logits(LLAMA, out), logits(MISTRAL, model))


def test_a_stack_of_it(tmp_path: Path) -> None:
    """Recipes are made of it as of any other; what is built loads as the new class."""
    model = saved(MISTRAL, tmp_path / "model", sliding_window=8)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    base = text_of(model, f"{{load_as: {LLAMA}, without: [sliding_window]}}")
    (recipes / "base.yaml").write_text(base)
    (recipes / "stack.yaml").write_text("merge_method: passthrough\ndepth_upscale: {model: base, overlap: 1}\n")
    space = api.Workspace.open(Settings(root=tmp_path, store=str(tmp_path / "store")))
    assert api.plan(space, space.recipe("stack")).config["architectures"] == [LLAMA]
    out = tmp_path / "out"
    api.merge(space, space.recipe("stack"), out)
    expected = merge_text(
        f"merge_method: passthrough\ndepth_upscale: {{model: {model}, overlap: 1}}\n"
        f"architecture: {{load_as: {LLAMA}, without: [sliding_window]}}\n",
        tmp_path,
    )
    assert torch.equal(logits(LLAMA, out), logits(LLAMA, expected))
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 6


REFUSED = {
    "a class of other arithmetic": (LLAMA, {}, "GemmaForCausalLM", "not known to compute as LlamaForCausalLM does"),
    "a slip of the pen": (LLAMA, {}, "MistralForCausalML", "did you mean 'MistralForCausalLM'"),
    "another kind of model": (
        LLAMA,
        {"model_type": "gemma"},
        MISTRAL,
        "no other class is known to compute as .*'gemma'",
    ),
    "another head": (LLAMA, {"architectures": ["LlamaForSequenceClassification"]}, MISTRAL, "it is of LlamaForSeq"),
    "code of its own": (LLAMA, {"auto_map": {"AutoModel": "x.Y"}}, MISTRAL, "code of its own"),
    "what the other cannot say": (
        LLAMA,
        {"mlp_bias": True},
        MISTRAL,
        "mlp_bias true cannot be said to MistralForCausalLM",
    ),
    "a key that is of both": (
        LLAMA,
        {},
        f"{{load_as: {MISTRAL}, without: [rms_norm_eps]}}",
        "rms_norm_eps cannot be left out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_to_compute_the_same_is_refused(name: str, tmp_path: Path) -> None:
    old, edit, new, message = REFUSED[name]
    with pytest.raises(PlanError, match=message):
        plan_text(text_of(saved(old, tmp_path / "model", edit), new), tmp_path)


def test_the_class_that_it_has_anyway_is_said(tmp_path: Path) -> None:
    plan = plan_text(text_of(saved(LLAMA, tmp_path / "model"), LLAMA), tmp_path)
    assert plan.warnings == ("architecture LlamaForCausalLM: the models are of it anyway",)
