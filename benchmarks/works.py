"""The works that are timed: one mergekit config each, run by both programs as it is, and what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """What is aimed at.

    Attributes:
        wall: how many times faster than mergekit, whole process against whole process.
        floor: how many times the copy floor the merge may take, start-up left out; ``None`` is no target.
        memory: peak resident memory, MB.
    """

    wall: float
    floor: float | None
    memory: float


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        name: short, also the file name of its recipe.
        body: the recipe, with ``{base}``, ``{one}`` and ``{two}`` for the folders, ``{half}``, ``{shift}`` and
            ``{layers}`` for layer numbers.
        target: what is aimed at.
        peer_rounds: rounds in which mergekit takes part, where it is too slow for all of them.
        copies: whether nothing is computed, so that copying the output is all there is to do.
        random: whether the result depends on a random generator, so that there is no truth to compare with.
    """

    name: str
    body: str
    target: Target
    peer_rounds: int | None = None
    copies: bool = False
    random: bool = False

    def inputs(self, models: Mapping[str, Path]) -> list[Path]:
        """Folders of the checkpoints that it reads."""
        return [path for name, path in models.items() if f"{{{name}}}" in self.body]


def recipe_text(body: str, models: Mapping[str, Path], layers: int) -> str:
    """The recipe of a work's body for checkpoints of ``layers`` layers."""
    # The stack of 22 layers is [0, 16] and [6, 22]: 32 layers.
    shift = max(1, round(layers * 6 / 22))
    return body.format(**models, layers=layers, half=layers - shift, shift=shift) + "dtype: bfloat16\n"


_ARITHMETIC = Target(7, 1.7, 600)
_SPHERICAL = Target(8, None, 600)
_SPARSE = Target(10, None, 600)
_COPY = Target(5, 1.3, 450)

_PAIR = """\
models:
  - {{model: {one}, parameters: {{weight: 0.6}}}}
  - {{model: {two}, parameters: {{weight: 0.4}}}}
"""
_TASKS = "base_model: {base}\n" + _PAIR
_SPARSE_TASKS = _TASKS + "parameters: {{density: 0.5}}\n"

WORKS = (
    Work("linear", "merge_method: linear\n" + _PAIR, _ARITHMETIC),
    Work(
        "slerp",
        "merge_method: slerp\nbase_model: {one}\nmodels: [{{model: {one}}}, {{model: {two}}}]\n"
        "parameters:\n  t:\n"
        "    - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}\n"
        "    - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}\n"
        "    - {{value: 0.5}}\n",
        _ARITHMETIC,
    ),
    Work("ties", "merge_method: ties\n" + _SPARSE_TASKS, Target(25, None, 600), peer_rounds=1),
    Work("dare_ties", "merge_method: dare_ties\n" + _SPARSE_TASKS, _SPARSE, random=True),
    Work("breadcrumbs", "merge_method: breadcrumbs\n" + _SPARSE_TASKS, _SPARSE, peer_rounds=1),
    Work("della", "merge_method: della\n" + _SPARSE_TASKS, _SPARSE, peer_rounds=1, random=True),
    Work("sce", "merge_method: sce\n" + _TASKS + "parameters: {{select_topk: 0.5}}\n", _SPARSE, peer_rounds=1),
    Work(
        "model_stock",
        "merge_method: model_stock\nbase_model: {base}\nmodels: [{{model: {one}}}, {{model: {two}}}]\n",
        _SPHERICAL,
    ),
    Work("karcher", "merge_method: karcher\nmodels: [{{model: {one}}}, {{model: {two}}}]\n", _SPHERICAL),
    Work("multislerp", "merge_method: multislerp\n" + _PAIR, _SPHERICAL),
    Work("nuslerp", "merge_method: nuslerp\n" + _PAIR, _SPHERICAL),
    Work(
        "stack",
        "merge_method: passthrough\nslices:\n"
        "  - sources: [{{model: {one}, layer_range: [0, {half}]}}]\n"
        "  - sources: [{{model: {one}, layer_range: [{shift}, {layers}]}}]\n",
        _COPY,
        copies=True,
    ),
    Work(
        "scaled",
        "merge_method: passthrough\nmodels: [{{model: {one}, parameters: {{scale: 1.5}}}}]\n",
        _COPY,
    ),
)

GROWTH = ("linear", "slerp", "ties", "stack")
"""Works that are also run, without mergekit, on checkpoints of two sizes."""

SIZES = (10, 49)
"""Layers of these checkpoints: the larger ones have four times the bytes, and three of them fit into 16 GB of page cache."""
