"""`merge-assets plan` of a sweep, what its points are and take together, and of a search, where it looks and by what."""

from __future__ import annotations

from rich.markup import escape

from merge_assets import api
from merge_assets.api import SweepPlan
from merge_assets.cli.console import console, print_fact, print_json, print_table, table
from merge_assets.errors import printable
from merge_assets.plan import Plan
from merge_assets.plan.describe import human_bytes
from merge_assets.recipe import Choices, Span
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


def show_search_plan(workspace: Workspace, name: str, *, as_json: bool) -> int:
    """Print where a search looks, by what, and what a candidate writes."""
    made = api.plan_search(workspace, name)
    search = made.search
    facts = {
        "trials": str(search.trials),
        "objectives": ", ".join(one.label for one in search.objective),
        "layers": " or ".join(map(str, sorted({found.layer_count for _, found in made.corners}))),
        "parameters": " or ".join(f"{one:,}" for one in sorted({found.parameter_count for _, found in made.corners})),
        "tensors": f"{made.changed:,} of {len(made.corners[0][1].tensors):,} are changed by the search",
        "writes": f"{human_bytes(made.bytes_to_write)}, then {human_bytes(made.bytes_changed)} for a candidate, "
        "which goes when the next one is there",
    }
    if as_json:
        print_json(
            {
                "search": name,
                "space": search.model_dump(mode="json", exclude_defaults=True)["space"],
                "objectives": [one.label for one in search.objective],
                "trials": search.trials,
                "changed_tensors": made.changed,
                "bytes_to_write": made.bytes_to_write,
                "bytes_changed": made.bytes_changed,
            }
        )
        return 0
    listed = table("place", "is tried", "beside", title=f"The search {escape(name)}")
    for path, dimension in search.space.items():
        tried = ", ".join(map(shown, dimension.choices)) if isinstance(dimension, Choices) else _span(dimension)
        beside = ", ".join(f"{other}: {' or '.join(map(shown, values))}" for other, values in dimension.when.items())
        listed.add_row(*(escape(printable(text)) for text in (path, tried, beside)))
    print_table(listed)
    for label, value in facts.items():
        print_fact(label, value)
    return 0


def _span(span: Span) -> str:
    words = ["whole numbers "] * span.whole + [f"from {span.low} to {span.high}"] + [", logarithmic"] * span.log
    return "".join(words)


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
