"""A passthrough merge that imports no more than it needs; run in a process of its own."""

from __future__ import annotations

from pathlib import Path

from merge_assets.checkpoint import open_checkpoint
from merge_assets.engine.execute import execute
from merge_assets.plan import PlanInput, build_plan
from merge_assets.recipe import load_recipe


def passthrough(source: Path, out: Path) -> None:
    out.mkdir()
    file = out.with_suffix(".yaml")
    file.write_text(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\n")
    recipe = load_recipe(file)
    execute(build_plan(recipe, [PlanInput(recipe.references()[0], open_checkpoint(source))]), out)
