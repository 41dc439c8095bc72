"""Filters, gradients, slices and levels of parameters reach the arithmetic: each tensor has the values that are its own.

The values are worked out here from the rules of recipes.md, and the tensors by the oracles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tests import oracles
from tests.merging import merged_tensors
from tests.method_support import Array, relative_error
from tests.synthetic import read_tensors, write_llama

LAYERS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    base = write_llama(root / "base", layers=LAYERS, dtype=torch.float32)
    paths = {"base": base}
    for number, name in enumerate("ab", start=1):
        generator = torch.Generator().manual_seed(number)
        moved = {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in read_tensors(base).items()}
        paths[name] = write_llama(root / name, layers=LAYERS, dtype=torch.float32, edit=moved)
    return paths


def gradient(values: Sequence[float], layer: int | None, layers: int) -> float:
    """Value of a gradient in a slice of so many layers; outside of them the first."""
    t = 0.0 if layer is None else layer / (layers - 1) if layers > 1 else 1.0
    x = t * (len(values) - 1)
    k = int(x)
    return (1 - (x - k)) * values[k] + (x - k) * values[min(len(values) - 1, k + 1)]


def layer_of(name: str) -> int | None:
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def moved(name: str, by: int) -> str:
    """The name of the same tensor, so many layers on."""
    layer = layer_of(name)
    return name if layer is None else name.replace(f"layers.{layer}.", f"layers.{layer + by}.")


def check(text: str, models: dict[str, Path], folder: Path, formula: Callable[[str, dict], Array], layers: int) -> None:
    result = merged_tensors(text.format(**models) + "\ndtype: float32\n", folder)
    inputs = {m: {k: v.double().numpy() for k, v in read_tensors(path).items()} for m, path in models.items()}
    assert {layer_of(name) for name in result} == {None, *range(layers)}
    for name, tensor in result.items():
        assert relative_error(tensor.double().numpy(), formula(name, inputs)) <= 1e-6, name


def test_a_gradient_with_filters(models, tmp_path: Path) -> None:
    """The first filter that matches wins; what no filter matches has the value without one."""
    text = """
merge_method: slerp
slices:
  - sources:
      - {{model: {a}, layer_range: [0, 4]}}
      - {{model: {b}, layer_range: [0, 4]}}
base_model: {a}
parameters:
  t:
    - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
    - {{filter: mlp, value: [1, 0.2]}}
    - {{value: 0.45}}
"""

    def formula(name: str, inputs: dict) -> Array:
        t = 0.45
        if "self_attn" in name:
            t = gradient([0, 0.5, 0.3, 0.7, 1], layer_of(name), LAYERS)
        elif "mlp" in name:
            t = gradient([1, 0.2], layer_of(name), LAYERS)
        return oracles.merge("slerp", [inputs["a"][name], inputs["b"][name]], base=0, whole={"t": t})

    check(text, models, tmp_path, formula, LAYERS)


def test_levels_of_parameters(models, tmp_path: Path) -> None:
    """A model's own value comes before the slice's, that before the global one, and that before the default."""
    text = """
merge_method: ties
base_model: {base}
slices:
  - sources:
      - {{model: {base}, layer_range: [0, 2]}}
      - {{model: {a}, layer_range: [0, 2], parameters: {{weight: 0.7, density: [0.2, 0.6]}}}}
      - {{model: {b}, layer_range: [0, 2], parameters: {{weight: [0.1, 0.5]}}}}
    parameters: {{density: 0.35, lambda: 0.8}}
  - sources:
      - {{model: {base}, layer_range: [2, 4]}}
      - {{model: {a}, layer_range: [2, 4], parameters: {{weight: [{{filter: mlp, value: 0.25}}]}}}}
      - {{model: {b}, layer_range: [2, 4], parameters: {{weight: 1.1}}}}
parameters: {{weight: 0.6, density: 0.9, normalize: false}}
"""

    def formula(name: str, inputs: dict) -> Array:
        layer = layer_of(name)
        # Embeddings belong to the first slice, final norm and head to the last.
        if layer in (0, 1) or "embed" in name:
            place = layer
            weight = [0.7, gradient([0.1, 0.5], place, 2)]
            density, lam = [gradient([0.2, 0.6], place, 2), 0.35], 0.8
        else:
            weight, density, lam = [0.25 if "mlp" in name else 0.6, 1.1], [0.9, 0.9], 1.0
        return oracles.merge(
            "ties",
            [inputs[model][name] for model in ("base", "a", "b")],
            base=0,
            per_model={"weight": weight, "density": density},
            whole={"lambda": lam, "normalize": False},
        )

    check(text, models, tmp_path, formula, LAYERS)


def test_slices_at_different_offsets(models, tmp_path: Path) -> None:
    """Layer i of one model meets layer i + 2 of the other; a gradient counts within its slice."""
    text = """
merge_method: linear
slices:
  - sources:
      - {{model: {a}, layer_range: [0, 2], parameters: {{weight: [0.2, 1]}}}}
      - {{model: {b}, layer_range: [2, 4], parameters: {{weight: 0.5}}}}
  - sources:
      - {{model: {b}, layer_range: [1, 4], parameters: {{weight: [1, 2, 5]}}}}
      - {{model: {a}, layer_range: [1, 4], parameters: {{weight: 3}}}}
"""

    def formula(name: str, inputs: dict) -> Array:
        layer = layer_of(name)
        if layer in (0, 1) or "embed" in name:
            first, second = inputs["a"][name], inputs["b"][moved(name, 2)]
            return oracles.merge("linear", [first, second], per_model={"weight": [gradient([0.2, 1], layer, 2), 0.5]})
        place = None if layer is None else layer - 2
        sources = [inputs["b"][moved(name, -1)], inputs["a"][moved(name, -1)]]
        return oracles.merge("linear", sources, per_model={"weight": [gradient([1, 2, 5], place, 3), 3]})

    check(text, models, tmp_path, formula, 5)


def test_random_masks_follow_the_name_of_the_output(models, tmp_path: Path) -> None:
    """The same layers stacked twice are thinned differently; the seed of the recipe counts."""
    text = """
merge_method: dare_ties
seed: 5
base_model: {base}
slices:
  - sources: [{{model: {base}, layer_range: [0, 2]}}, {{model: {a}, layer_range: [0, 2]}}, {{model: {b}, layer_range: [0, 2]}}]
  - sources: [{{model: {base}, layer_range: [0, 2]}}, {{model: {a}, layer_range: [0, 2]}}, {{model: {b}, layer_range: [0, 2]}}]
parameters: {{weight: 0.4, density: [0.3, 0.8]}}
"""

    def formula(name: str, inputs: dict) -> Array:
        layer = layer_of(name)
        place = None if layer is None else layer % 2
        source = moved(name, -2) if layer in (2, 3) else name
        density = gradient([0.3, 0.8], place, 2)
        return oracles.merge(
            "dare_ties",
            [inputs[model][source] for model in ("base", "a", "b")],
            base=0,
            name=name,
            seed=5,
            per_model={"weight": [0.4, 0.4], "density": [density, density]},
        )

    check(text, models, tmp_path, formula, 4)
