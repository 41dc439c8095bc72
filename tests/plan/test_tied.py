"""Contract: an output head that is stored beside the embedding that it is tied to stays what the embedding is, or is untied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.merging import merge_text, plan_text, read_tensors
from tests.synthetic import llama_config, llama_shapes, write_checkpoint

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def model(folder: Path, seed: int, *, tied: bool = True, stored: bool = True) -> Path:
    """Of one layer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = llama_shapes(1, tied=tied and not stored)
    tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    if tied and stored:
        tensors[HEAD] = tensors[EMBEDDING].clone()
    return write_checkpoint(folder, tensors, llama_config(1, tied=tied))


METHODS = {
    "linear": "merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 1}}\n",
    "slerp": "merge_method: slerp\nbase_model: {a}\nmodels: [{{model: {b}}}]\nparameters: {{t: 0.3}}\n",
    "ties": "merge_method: ties\nbase_model: {a}\nmodels: [{{model: {b}}}]\nparameters: {{weight: 1, density: 0.5}}\n",
    "dare_ties": "merge_method: dare_ties\nbase_model: {a}\nmodels: [{{model: {b}}}]\nparameters: {{density: 0.5, weight: 1}}"
    "\n",
    "scaled": "merge_method: passthrough\nmodels: [{{model: {a}, parameters: {{scale: 0.5}}}}]\n",
    "copied": "merge_method: passthrough\nmodels: [{{model: {a}}}]\n",
}


@pytest.mark.parametrize("method", METHODS)
def test_one_mask_one_merge_two_names(method: str, tmp_path: Path) -> None:
    models = {"a": model(tmp_path / "a", 0), "b": model(tmp_path / "b", 1)}
    out = merge_text(METHODS[method].format(**models), tmp_path)
    found = read_tensors(out)
    assert torch.equal(found[HEAD], found[EMBEDDING])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    single = {name: model(tmp_path / f"{name}-single", seed, stored=False) for seed, name in enumerate("ab")}
    once = read_tensors(merge_text(METHODS[method].format(**single), tmp_path))
    assert HEAD not in once and torch.equal(once[EMBEDDING], found[EMBEDDING]), "as where it is stored once"


def test_what_tears_them_apart_unties_the_config_and_says_so(tmp_path: Path) -> None:
    models = {"a": model(tmp_path / "a", 0), "b": model(tmp_path / "b", 1)}
    text = (
        METHODS["linear"].format(**models).replace("weight: 1}", "weight: [{filter: lm_head, value: 2}, {value: 1}]}")
    )
    text = text.replace(f"{{model: {models['b']}}}", f"{{model: {models['b']}, parameters: {{weight: 1}}}}")
    plan = plan_text(text, tmp_path)
    assert plan.config["tie_word_embeddings"] is False
    (decision,) = plan.decisions
    assert (decision.what, decision.example) == ("untied", HEAD) and decision.text in plan.warnings


def test_a_model_with_a_head_of_its_own_unties_it(tmp_path: Path) -> None:
    models = {"a": model(tmp_path / "a", 0), "b": model(tmp_path / "b", 1, tied=False)}
    plan = plan_text(METHODS["linear"].format(**models), tmp_path)
    assert plan.config["tie_word_embeddings"] is False
    head = next(tensor for tensor in plan.tensors if tensor.name == HEAD)
    assert [item.header.name for item in head.inputs] == [HEAD, HEAD]
