"""Two versions of the store side by side, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from merge_assets.api.compare import Compared, Comparison, ScoreChange, compare
from merge_assets.cli.console import console, print_fact, print_json, print_table, table
from merge_assets.cli.opened import opened
from merge_assets.cli.store_text import shown_input
from merge_assets.store.names import short_name

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_SHOWN = 12
"""Names of tensors and files that are listed; the JSON has all."""


def run_diff(a: str, b: str | None, *, as_json: bool) -> None:
    """Print what differs between two versions."""
    found = compare(opened(), a, b)
    if as_json:
        print_json(_as_json(found))
        return
    out = console()
    out.print(
        f"[bold]{escape(short_name(found.a.name))}[/] → [bold]{escape(short_name(found.b.name))}[/]", highlight=False
    )
    for name, lines in found.recipe.items():
        out.print(f"\n[bold]{escape(name)}[/]")
        for line in lines:
            out.print(line, style=_COLOURS.get(line[:1]), markup=False, highlight=False, soft_wrap=True)
    if found.facts:
        rows = table("", short_name(found.a.name), short_name(found.b.name), title="Records")
        for name, pair in found.facts.items():
            rows.add_row(escape(name), *(escape("" if value is None else str(value)) for value in pair))
        print_table(rows)
    if found.inputs:
        rows = table("made from", short_name(found.a.name), short_name(found.b.name), title="Inputs")
        for name, inputs in found.inputs.items():
            rows.add_row(escape(name), *(escape(shown_input(item)) if item else "[dim]not[/]" for item in inputs))
        print_table(rows)
    _print_difference("tensors", found.tensors)
    _print_difference("files", found.files)
    if found.scores:
        print_table(_scores(found.scores))


def _print_difference(what: str, found: Compared) -> None:
    print_fact(
        what,
        f"{found.same} the same, {len(found.changed)} with other bytes, "
        f"{len(found.only_a)} only in the first, {len(found.only_b)} only in the second",
    )
    marks = dict.fromkeys(found.changed, "other bytes")
    marks |= dict.fromkeys(found.only_a, "only in the first") | dict.fromkeys(found.only_b, "only in the second")
    for name, mark in list(marks.items())[:_SHOWN]:
        console().print(f"{'':>12}  {escape(name)}  [dim]{mark}[/]", soft_wrap=True, highlight=False)
    if len(marks) > _SHOWN:
        console().print(f"{'':>12}  [dim]and {len(marks) - _SHOWN} more; --json has all[/]")


def _scores(scores: Sequence[ScoreChange]) -> Table:
    heads = ("suite", "task", "metric", "first", "second", "Δ", "the second is")
    shown = table(*heads, title="Scores", numbers=heads[3:6])
    for row in scores:
        change = "" if row.a is None or row.b is None else f"{row.b - row.a:+.4f}"
        values = (
            "" if value is None else f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")
            for value, error in ((row.a, row.stderr_a), (row.b, row.stderr_b))
        )
        shown.add_row(
            escape(row.suite), escape(row.task or "headline"), escape(row.metric), *values, change, row.verdict
        )
    return shown


def _as_json(found: Comparison) -> dict[str, object]:
    return {
        "a": {"line": found.a.artifact.line, "version": found.a.artifact.version},
        "b": {"line": found.b.artifact.line, "version": found.b.artifact.version},
        "same_bytes": found.alike,
        "recipe": {name: list(lines) for name, lines in found.recipe.items()},
        "facts": {name: list(pair) for name, pair in found.facts.items()},
        "inputs": {
            name: [item.model_dump(mode="json") if item else None for item in pair]
            for name, pair in found.inputs.items()
        },
        "tensors": asdict(found.tensors),
        "files": asdict(found.files),
        "scores": [asdict(row) for row in found.scores],
    }
