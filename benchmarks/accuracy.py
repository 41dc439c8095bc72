"""Errors at bfloat16 of both programs against the float64 truth, on checkpoints small enough to hold.

    python -m benchmarks.accuracy FOLDER PEER RESULTS.json

The truth comes from the formulas of the tests (`tests/oracles.py`), which share nothing with the engine but the
resolved parameters.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.checkpoints import Shape, write_family
from benchmarks.works import WORKS, recipe_text
from merge_assets.engine.rounding import rounded
from merge_assets.plan import OutputTensor
from tests import oracles, peer
from tests.merging import plan_text
from tests.synthetic import read_tensors

SHAPE = Shape(hidden=512, feed=1408, heads=8, kv_heads=2, vocabulary=4096)
LAYERS = 4

Tensors = Mapping[str, torch.Tensor]

_BASE = "base_model: {base}\n"
_PAIR = "models: [{{model: {one}}}, {{model: {two}}}]\n"
BODIES = {work.name: work.body for work in WORKS if not (work.random or work.copies)} | {
    "linear_not_normalised": "merge_method: linear\n" + _PAIR + "parameters: {{weight: 0.45, normalize: false}}\n",
    "nuslerp_of_differences": "merge_method: nuslerp\n" + _BASE + _PAIR + "parameters: {{weight: 0.5}}\n",
    "model_stock_by_rows": "merge_method: model_stock\n" + _BASE + _PAIR + "parameters: {{filter_wise: true}}\n",
    "task_arithmetic": "merge_method: task_arithmetic\n" + _BASE + _PAIR + "parameters: {{weight: 0.6}}\n",
    "breadcrumbs_ties": "merge_method: breadcrumbs_ties\n"
    + _BASE
    + _PAIR
    + "parameters: {{weight: 0.6, density: 0.5, gamma: 0.01}}\n",
    "nearswap": "merge_method: nearswap\n" + _BASE + "models: [{{model: {one}}}]\nparameters: {{t: 0.001}}\n",
    "arcee_fusion": "merge_method: arcee_fusion\n" + _BASE + "models: [{{model: {one}}}]\n",
    "ram": "merge_method: ram\n" + _BASE + _PAIR + "parameters: {{epsilon: 0.001}}\n",
    "ramplus_tl": "merge_method: ramplus_tl\n" + _BASE + _PAIR + "parameters: {{epsilon: 0.001}}\n",
}
"""What is timed and computes without chance, and the other methods that do."""


@dataclass
class Distance:
    """How far a bfloat16 model is from the truth, tensor after tensor.

    Attributes:
        missed: sum of the squared differences.
        size: sum of the squares of the truth.
        exact: elements that are the truth rounded to bfloat16.
        elements: all elements.
    """

    missed: float = 0.0
    size: float = 0.0
    exact: int = 0
    elements: int = 0

    def add(self, tensor: torch.Tensor, truth: torch.Tensor) -> None:
        """Count one tensor."""
        tensor = tensor.bfloat16()  # mergekit writes float32 where a method promotes, whatever the recipe says
        self.missed += float((tensor.double() - truth).square().sum())
        self.size += float(truth.square().sum())
        self.exact += int((tensor == rounded(truth, "BF16")[0]).sum())  # truth.bfloat16() would round twice
        self.elements += truth.numel()

    def figures(self) -> dict[str, float]:
        """Relative Frobenius error, and the share of elements that are exactly the rounded truth."""
        return {"error": (self.missed / self.size) ** 0.5, "exact": self.exact / self.elements}


def compare(folder: Path, venv: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of both programs for every recipe of :data:`BODIES`, by name.

    Args:
        folder: for checkpoints and outputs; emptied.
        venv: virtual environment of mergekit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    models = write_family(folder / "models", LAYERS, SHAPE)
    recipes = {name: recipe_text(body, models, LAYERS) for name, body in BODIES.items()}
    (folder / "mergekit").mkdir()
    made = peer.run(venv, recipes, folder / "mergekit")
    found = {}
    for name, recipe in recipes.items():
        theirs = made[name]
        if isinstance(theirs, peer.PeerError):
            raise theirs
        outputs = {"ours": read_tensors(_merge(recipe, folder / "ours" / name)), "mergekit": read_tensors(theirs)}
        found[name] = _distances(recipe, outputs, folder)
    return found


def _merge(recipe: str, out: Path) -> Path:
    file = out.with_suffix(".yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(recipe)
    command: list[str | Path] = [Path(sys.executable).parent / "merge-assets", "merge", file, out, "--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True)
    return out


def _distances(recipe: str, outputs: Mapping[str, Tensors], folder: Path) -> dict[str, dict[str, float]]:
    plan = plan_text(recipe, folder)
    inputs = [read_tensors(Path(model.location)) for model in plan.models]
    distances = {program: Distance() for program in outputs}
    for tensor in plan.tensors:
        truth = torch.from_numpy(_truth(tensor, inputs))
        for program, tensors in outputs.items():
            distances[program].add(tensors[tensor.name], truth)
    return {program: distance.figures() for program, distance in distances.items()}


def _truth(tensor: OutputTensor, inputs: list[dict[str, torch.Tensor]]) -> oracles.Array:
    per_model: dict[str, list[float]] = defaultdict(list)
    for place, item in enumerate(tensor.inputs):
        if place != tensor.base:
            for name, value in item.parameters.items():
                per_model[name].append(float(value))
    return oracles.merge(
        tensor.method,
        [inputs[item.model][item.header.name].double().numpy() for item in tensor.inputs],
        base=tensor.base,
        name=tensor.name,
        per_model=per_model,
        whole=tensor.parameters,
    )


def main() -> None:
    """Entry point."""
    folder, venv, results = (Path(argument) for argument in sys.argv[1:4])
    found = json.loads(results.read_text()) if results.exists() else {}
    found["accuracy"] = compare(folder / "accuracy", venv)
    results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
