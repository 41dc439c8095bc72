"""Run a recipe text through planner and engine, for tests."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import torch

from merge_assets.checkpoint import open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.recipe import load_recipe
from merge_assets.variant.surroundings import write_surroundings
from tests.synthetic import read_tensors


def plan_text(text: str, folder: Path, **options: Any) -> Plan:
    """The plan of a recipe whose models are folders; the recipe file is written to ``folder``."""
    file = folder / f"r{uuid.uuid4().hex[:8]}.yaml"
    file.write_text(text)
    recipe = load_recipe(file)
    inputs = [PlanInput(reference, open_checkpoint(Path(reference.path))) for reference in recipe.references()]
    return build_plan(recipe, inputs, **options)


def merge_text(text: str, folder: Path, *, shard_size: int = 5_000_000_000, **options: Any) -> Path:
    """The folder of a recipe's variant, complete."""
    out = folder / f"out-{uuid.uuid4().hex[:8]}"
    out.mkdir()
    plan = plan_text(text, folder, shard_size=shard_size)
    execute(plan, out, device="cpu", **options)
    write_surroundings(plan, load_recipe(max(folder.glob("r*.yaml"), key=lambda p: p.stat().st_mtime_ns)), out)
    return out


def merged_tensors(text: str, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    return read_tensors(merge_text(text, folder, **options))
