"""`merge-assets plan SWEEP`: what its points are, and what they take together."""

from __future__ import annotations

from rich.markup import escape

from merge_assets import api
from merge_assets.api import SweepPlan
from merge_assets.cli.console import console, print_fact, print_json, print_table, table
from merge_assets.errors import printable
from merge_assets.plan import Plan
from merge_assets.plan.describe import human_bytes
from merge_assets.recipe.parameters import shown
from merge_assets.workspace import Workspace


def show_sweep_plan(workspace: Workspace, name: str, *, as_json: bool) -> int:
    """Print the plans of a sweep's points; 1 if one cannot be planned."""
    made = api.plan_sweep(workspace, name)
    wrong = any(not isinstance(found, Plan) for _, _, found in made.points)
    if as_json:
        print_json(_as_json(made))
        return int(wrong)
    paths = list(made.points[0][1])
    listed = table("point", *map(escape, paths), "layers", "parameters", title=f"The sweep {escape(name)}")
    for recipe, values, found in made.points:
        sizes = (str(found.layer_count), f"{found.parameter_count:,}") if isinstance(found, Plan) else ("", "")
        listed.add_row(escape(recipe.name), *(escape(printable(shown(values[path]))) for path in paths), *sizes)
    print_table(listed)
    print_fact("points", str(len(made.points)))
    print_fact("tensors", f"{made.tensors:,}, of which {made.distinct:,} are different; each is made once")
    print_fact(
        "writes", f"{human_bytes(made.bytes_to_write)}; {human_bytes(made.bytes_apart)} if the points shared no files"
    )
    if made.seconds is not None:
        print_fact("merging", f"about {made.seconds:.3g} s, at the speed of the newest build by this method")
    for _, _, found in made.points:
        if not isinstance(found, Plan):
            console().print(f"[bold red]cannot be planned:[/] {escape(str(found))}", soft_wrap=True)
    return int(wrong)


def _as_json(made: SweepPlan) -> dict[str, object]:
    points = [
        {
            "name": recipe.name,
            "values": dict(values),
            "layers": found.layer_count if isinstance(found, Plan) else None,
            "parameters": found.parameter_count if isinstance(found, Plan) else None,
            "error": None if isinstance(found, Plan) else str(found),
        }
        for recipe, values, found in made.points
    ]
    return {
        "sweep": made.name,
        "points": points,
        "tensors": made.tensors,
        "distinct_tensors": made.distinct,
        "bytes_to_write": made.bytes_to_write,
        "bytes_apart": made.bytes_apart,
        "seconds": made.seconds,
    }
