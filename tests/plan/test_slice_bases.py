"""The base of a slice is the slice's own, else the recipe's: every method that has one is compared with its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from merge_assets.errors import PlanError
from merge_assets.methods import find_method, methods
from tests import oracles
from tests.merging import merged_tensors, plan_text
from tests.method_support import Array, relative_error
from tests.synthetic import llama_config, read_tensors, write_checkpoint

SHAPES = {"model.embed_tokens.weight": (6, 8), "model.norm.weight": (8,), "lm_head.weight": (6, 8)}
LAYERS = {f"model.layers.{layer}.w.weight": (8, 8) for layer in range(3)}
WEIGHTS = {"a": 0.4, "b": 0.7, "c": 1.1}
WHOLE: dict[str, dict[str, Any]] = {"slerp": {"t": 0.3}, "nearswap": {"t": 0.2}}
WITH_BASE = sorted(name for name, method in methods().items() if method.has_base)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(7)
    found = {}
    for name in "abcd":
        tensors = {n: torch.randn(shape, generator=generator) for n, shape in (SHAPES | LAYERS).items()}
        found[name] = write_checkpoint(root / name, tensors, llama_config(3) | {"of": name})
    return found


def sources(method: str) -> str:
    return "ab" if find_method(method).most == 1 else "abc"


def recipe(method: str, bases: tuple[str | None, str | None], models: dict[str, Path], **top: Any) -> dict[str, Any]:
    """Two slices, of which the second leaves out layer 1 and repeats the last layer's neighbour."""
    slices: list[dict[str, Any]] = []
    for base, layers in zip(bases, ([0, 1], [1, 3]), strict=True):
        entries: list[dict[str, Any]] = [
            {"model": str(models[name]), "layer_range": layers} for name in sources(method)
        ]
        if find_method(method).parameter("weight"):
            for name, entry in zip(sources(method), entries, strict=True):
                entry["parameters"] = {"weight": WEIGHTS[name]}
        slices.append({"sources": entries, **({"base_model": str(models[base])} if base else {})})
    body = {"merge_method": method, "slices": slices, "parameters": WHOLE.get(method, {}), "dtype": "float32"}
    return body | {key: str(models[name]) for key, name in top.items()}


def expected(method: str, base: str, name: str, inputs: dict[str, Array]) -> Array:
    order = sources(method)
    declared = find_method(method)
    weights = {"weight": [WEIGHTS[n] for n in order if n != base]} if declared.parameter("weight") else {}
    values = [inputs[n] for n in order]
    return oracles.merge(
        method, values, base=order.index(base), name=name, per_model=weights, whole=WHOLE.get(method, {})
    )


def check(text: dict[str, Any], method: str, bases: tuple[str, str], models: dict[str, Path], folder: Path) -> None:
    """Embeddings and layer 0 are merged with the first slice's base, all else with the second's."""
    result = merged_tensors(yaml.safe_dump(text), folder)
    stored = {n: {k: v.double().numpy() for k, v in read_tensors(models[n]).items()} for n in sources(method)}
    first = {"model.embed_tokens.weight", "model.layers.0.w.weight"}
    assert set(result) == SHAPES.keys() | LAYERS.keys()
    for name, tensor in result.items():
        inputs = {model: tensors[name] for model, tensors in stored.items()}
        right, wrong = (expected(method, base, name, inputs) for base in (bases if name in first else bases[::-1]))
        assert relative_error(tensor.double().numpy(), right) < 2e-6, name
        assert not np.allclose(right, wrong), f"{name}: this example cannot tell the bases apart"


@pytest.mark.parametrize("method", WITH_BASE)
def test_each_slice_is_merged_with_its_own_base(method: str, models: dict[str, Path], tmp_path: Path) -> None:
    check(recipe(method, ("a", "b"), models), method, ("a", "b"), models, tmp_path)


@pytest.mark.parametrize("method", WITH_BASE)
def test_a_slice_without_a_base_takes_the_recipes(method: str, models: dict[str, Path], tmp_path: Path) -> None:
    check(recipe(method, (None, "a"), models, base_model="b"), method, ("b", "a"), models, tmp_path)


@pytest.mark.parametrize("method", ["ties", "slerp"])
def test_slices_of_a_module_have_bases_too(method: str, models: dict[str, Path], tmp_path: Path) -> None:
    text = recipe(method, (None, "a"), models, base_model="b")
    text["modules"] = {"default": {"slices": text.pop("slices")}}
    check(text, method, ("b", "a"), models, tmp_path)


def test_a_recipes_base_that_no_slice_uses_gives_the_config_alone(models: dict[str, Path], tmp_path: Path) -> None:
    text = recipe("ties", ("a", "b"), models, base_model="d")
    check(text, "ties", ("a", "b"), models, tmp_path)
    plan = plan_text(yaml.safe_dump(text), tmp_path)
    assert plan.config["of"] == "d"
    assert {d.reason for d in plan.dropped} == {"donates only config and tokenizer"}


def test_the_base_of_a_slice_gives_no_config(models: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_text(yaml.safe_dump(recipe("ties", ("b", "c"), models)), tmp_path)
    assert plan.config["of"] == "a"


def test_a_missing_base_is_an_error_of_its_slice(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"slices\[1\]\.sources: the base model .*/d is not among the sources"):
        plan_text(yaml.safe_dump(recipe("ties", ("a", "d"), models)), tmp_path)
    with pytest.raises(PlanError, match="base_model: missing; method ties needs a base model"):
        plan_text(yaml.safe_dump(recipe("ties", ("a", None), models)), tmp_path)


def test_a_base_that_the_method_does_not_have_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    plan = plan_text(yaml.safe_dump(recipe("linear", ("a", "d"), models)), tmp_path)
    assert [w for w in plan.warnings if "base_model" in w] == [
        f"slices[{number}].base_model: {models[name]} has no effect, since linear has no base"
        for number, name in enumerate("ad")
    ]
    assert {d.reason for d in plan.dropped} == {"is only the base of a slice, and linear has no base"}
    assert all(tensor.base is None for tensor in plan.tensors)
