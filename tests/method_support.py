"""Merges of small families of models, with what their oracle expects, for tests of the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from merge_assets.methods import find_method
from tests import oracles
from tests.merging import merged_tensors
from tests.synthetic import llama_config, write_checkpoint

Array = npt.NDArray[np.float64]

PAIR = {"weight": [0.37, 0.9]}
TRIPLE = {"weight": [0.37, 0.9, 0.2]}
WEIGHTS = {"weight": [0.2, 0.5, 0.9]}
MIXED = {"weight": [0.37, -0.9, 0.5], "density": [0.3, 0.55, 0.8]}


@dataclass(frozen=True)
class Case:
    """One merge.

    Attributes:
        method: its method.
        models: names of the listed models.
        base: name of the base, one of the models or another.
        per_model: values of per-model parameters, for every listed model but the base.
        whole: values under the recipe's own `parameters`: whole-method ones, and per-model ones for all models alike.
        seed: of random masks.
    """

    method: str
    models: Sequence[str] = "ab"
    base: str | None = None
    per_model: Mapping[str, Sequence[float]] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def recipe(self, folders: Mapping[str, Path], dtype: str = "float32") -> str:
        """YAML of the merge."""
        values = {name: iter(of_models) for name, of_models in self.per_model.items()}
        entries = [
            {
                "model": str(folders[model]),
                "parameters": {} if model == self.base else {name: next(each) for name, each in values.items()},
            }
            for model in self.models
        ]
        recipe = {"merge_method": self.method, "models": entries, "parameters": dict(self.whole), "dtype": dtype}
        if self.base:
            recipe["base_model"] = str(folders[self.base])
        if self.seed:
            recipe["seed"] = self.seed
        return yaml.safe_dump(recipe)

    def expected(self, name: str, inputs: Mapping[str, Array]) -> Array:
        """What the oracle makes of one tensor.

        Args:
            name: the tensor's.
            inputs: its values by model.
        """
        order = self.models if self.base is None or self.base in self.models else [self.base, *self.models]
        declared = find_method(self.method)
        others = len(order) - (self.base is not None)
        spread = {key: [value] * others for key, value in self.whole.items() if declared.parameter(key).per_model}
        return oracles.merge(
            self.method,
            [inputs[model] for model in order],
            base=None if self.base is None else list(order).index(self.base),
            name=name,
            seed=self.seed,
            per_model={**spread, **self.per_model},
            whole={key: value for key, value in self.whole.items() if key not in spread},
        )


def merge_arrays(
    case: Case, tensors: Mapping[str, Mapping[str, npt.ArrayLike]], folder: Path, **options: Any
) -> dict[str, Array]:
    """Merge checkpoints that hold just these tensors, in float32.

    Args:
        case: the merge.
        tensors: by model, then by name.
        folder: for checkpoints and result.
        options: of :func:`tests.merging.merge_text`.
    """
    folders = {model: folder / model for model in tensors}
    for model, values in tensors.items():
        if not folders[model].exists():
            stored = {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in values.items()}
            write_checkpoint(folders[model], stored, llama_config(0))
    merged = merged_tensors(case.recipe(folders), folder, **options)
    return {name: tensor.double().numpy() for name, tensor in merged.items()}


def as_doubles(tensors: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """The values as a float32 checkpoint holds them."""
    return {name: np.array(value, dtype=np.float32).astype(np.float64) for name, value in tensors.items()}


def relative_error(result: Array, expected: Array) -> float:
    """Frobenius norm of the difference over that of what is expected."""
    return float(np.linalg.norm(result - expected) / max(float(np.linalg.norm(expected)), 1e-30))
