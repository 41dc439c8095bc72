"""The project that a team works on: tiny checkpoints, recipes of several methods, and what people do to their files."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.evaluation_support import ONE_TASK, write_checkpoint, write_suite

REPOSITORY = Path(__file__).parents[3]
BASES = ("b0", "b1", "b2", "b3")
BAD_METHOD = "bad-method"
BAD_NUMBERS = "bad-numbers"
FOLDED = "folded"
LASTING = {
    BAD_METHOD: "merge_method: linaer\nmodels: [{model: checkpoints/b0}]\n",
    BAD_NUMBERS: "merge_method: linear\nmodels: [{model: checkpoints/b0, parameters: {weight: 1.0e+30}}]\n"
    "parameters: {normalize: false}\ndtype: float16\nevaluate: []\n",
    FOLDED: "merge_method: linear\nmaterialize: false\nmodels:\n"
    "  - {model: checkpoints/b2, parameters: {weight: 1}}\n  - {model: checkpoints/b3, parameters: {weight: 2}}\n",
}
"""Recipes that nobody touches: one with a fault that is seen at once, one whose numbers overflow, one that is folded in."""

GOOD, GONE, BROKEN = "good", "gone", "broken"
FAULTS = ("half", "method", "model", "layers")
"""Ways to break a recipe: half of its text, an unknown method, a model that there is not, layers that there are not."""


@dataclass
class Recipe:
    """A recipe of the team.

    Attributes:
        number: decides what it is.
        generation: changes with every edit, and with it the variant.
        scored: whether its variant is evaluated.
        state: :data:`GOOD`, :data:`GONE` or :data:`BROKEN`.
        cancelled: whether somebody cancelled a run of it since its last edit.
    """

    number: int
    generation: int = 0
    scored: bool = True
    state: str = GONE
    cancelled: bool = False

    @property
    def name(self) -> str:
        return f"r{self.number:02}"

    def text(self) -> str:
        return _TEXTS[self.number % len(_TEXTS)](self.number, self.generation) + (
            "" if self.scored else "evaluate: []\n"
        )


def _weighted(models: Mapping[str, float]) -> str:
    return "models:\n" + "".join(
        f"  - {{model: {model}, parameters: {{weight: {weight:g}, density: 0.6}}}}\n"
        for model, weight in models.items()
    )


def _linear(number: int, generation: int) -> str:
    one, other = BASES[number // 10 % 4], BASES[(number // 10 + 1) % 4]
    weight = 1 + generation / 8
    return (
        f"merge_method: linear\nmodels:\n  - {{model: checkpoints/{one}, parameters: {{weight: 1}}}}\n"
        f"  - {{model: checkpoints/{other}, parameters: {{weight: {weight:g}}}}}\n"
    )


def _slerp(number: int, generation: int) -> str:
    one, other = BASES[number // 10 % 4], BASES[(number // 10 + 2) % 4]
    return (
        f"merge_method: slerp\nbase_model: checkpoints/{one}\nmodels: [{{model: checkpoints/{other}}}]\n"
        f"parameters: {{t: {0.1 + generation % 64 / 80:g}}}\n"
    )


def _task_vectors(method: str) -> Any:
    def text(number: int, generation: int) -> str:
        models = {"checkpoints/b1": 1 + generation / 8, "checkpoints/b2": 0.5 + number / 100}
        return f"merge_method: {method}\nbase_model: checkpoints/b0\nseed: {number}\n{_weighted(models)}"

    return text


def _stack(number: int, generation: int) -> str:
    ends = 2 + generation % 2
    return (
        "merge_method: passthrough\nslices:\n"
        f"  - sources: [{{model: checkpoints/b1, layer_range: [0, {ends}]}}]\n"
        f"  - sources: [{{model: checkpoints/b2, layer_range: [{generation // 2 % 3}, 4]}}]\n"
    )


def _chain(number: int, generation: int) -> str:
    parent = f"r{number - 6:02}"
    return (
        f"merge_method: linear\nmodels:\n  - {{model: {parent}, parameters: {{weight: 2}}}}\n"
        f"  - {{model: checkpoints/b3, parameters: {{weight: {1 + generation / 8:g}}}}}\n"
    )


def _longer_chain(number: int, generation: int) -> str:
    return (
        f"merge_method: slerp\nbase_model: r{number - 6:02}\nmodels: [{{model: r{number - 1:02}}}]\n"
        f"parameters: {{t: {0.1 + generation % 64 / 80:g}}}\n"
    )


def _pruned(number: int, generation: int) -> str:
    base, lowest = BASES[number // 10 % 4], 1 + generation % 2
    tensor = "self_attn.v_proj" if generation % 4 < 2 else "mlp.down_proj"
    return (
        "merge_method: passthrough\n"
        f"prune_layers: {{model: checkpoints/{base}, by: snr, tensor: {tensor}, remove: {{lowest: {lowest}}}}}\n"
    )


def _with_folded(number: int, generation: int) -> str:
    return (
        f"merge_method: linear\nmodels:\n  - {{model: {FOLDED}, parameters: {{weight: 1}}}}\n"
        f"  - {{model: checkpoints/b0, parameters: {{weight: {1 + generation / 8 + number / 100:g}}}}}\n"
    )


_TEXTS = (
    _linear,
    _slerp,
    _task_vectors("ties"),
    _task_vectors("dare_ties"),
    _task_vectors("task_arithmetic"),
    _stack,
    _chain,
    _longer_chain,
    _pruned,
    _with_folded,
)


class Project:
    """The folder, and what people do to it.

    Args:
        root: an empty folder.
        count: recipes that the team has.
        settings: of the project.
        rng: decides what each recipe begins as.
    """

    def __init__(self, root: Path, count: int, settings: Mapping[str, Any], rng: random.Random) -> None:
        self.root = root
        for folder in ("recipes", "suites", "checkpoints"):
            (root / folder).mkdir(parents=True)
        for seed, name in enumerate(BASES):
            write_checkpoint(root / "checkpoints" / name, seed=seed, layers=4)
        write_suite(root / "suites", documents=2)
        (root / "suites" / "tiny.yaml").write_text(ONE_TASK)
        shutil.copyfile(REPOSITORY / "definitions.py", root / "definitions.py")
        write_settings(root, settings)
        self.recipes = [Recipe(number, scored=rng.random() < 0.6) for number in range(count)]
        for name, text in LASTING.items():
            self._write(name, text)
        for recipe in self.recipes:
            if rng.random() < 0.75:
                self.save(recipe)

    def save(self, recipe: Recipe) -> None:
        """The recipe's text, at once, as an editor that renames does it."""
        self._write(recipe.name, recipe.text())
        recipe.state = GOOD

    def save_half(self, recipe: Recipe) -> None:
        """The first half of its text, as an editor that is slow leaves it for a moment."""
        text = recipe.text()
        self._file(recipe.name).write_text(text[: len(text) // 2])

    def spoil(self, recipe: Recipe, fault: str) -> None:
        recipe.state = BROKEN
        if fault == "half":
            return self.save_half(recipe)
        extra = {
            "method": recipe.text().replace("merge_method: ", "merge_method: un"),
            "model": recipe.text().replace("checkpoints/b", "checkpoints/none").replace("model: r", "model: none"),
            "layers": "merge_method: passthrough\nslices: [{sources: [{model: checkpoints/b0, layer_range: [2, 9]}]}]\n",
        }
        return self._write(recipe.name, extra[fault])

    def remove(self, recipe: Recipe) -> None:
        self._file(recipe.name).unlink(missing_ok=True)
        recipe.state = GONE

    def change_base(self, name: str, value: float, *, in_place: bool) -> None:
        """Another last weight: written into the file, or as a new file that takes its name."""
        file = self.root / "checkpoints" / name / "model.safetensors"
        if in_place:
            with file.open("r+b") as opened:
                opened.seek(-4, 2)
                opened.write(struct.pack("<f", value))
            return
        draft = file.with_name("new")
        draft.write_bytes(file.read_bytes()[:-4] + struct.pack("<f", value))
        draft.replace(file)

    def _write(self, name: str, text: str) -> None:
        draft = self.root / f".{name}.draft"
        draft.write_text(text)
        draft.replace(self._file(name))

    def _file(self, name: str) -> Path:
        return self.root / "recipes" / f"{name}.yaml"


def write_settings(root: Path, settings: Mapping[str, Any]) -> None:
    """The project's ``merge-assets.toml``."""
    (root / "merge-assets.toml").write_text("".join(f"{name} = {json.dumps(settings[name])}\n" for name in settings))
