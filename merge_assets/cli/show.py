"""Commands that show: recipes, plan, leaderboard, settings."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from merge_assets import api
from merge_assets.api import Workspace
from merge_assets.api.joined import has_scores_alone
from merge_assets.cli.console import console, err, parse_size, print_fact, print_json, print_table, table
from merge_assets.cli.findings import as_rows, print_findings
from merge_assets.cli.opened import opened
from merge_assets.cli.sweep import show_search_plan, show_sweep_plan
from merge_assets.errors import MergeAssetsError, RecipeError, in_file, in_one_line, printable
from merge_assets.freshness import short
from merge_assets.identity import variant_line
from merge_assets.plan import Plan, check_alone
from merge_assets.plan.code import code_summary, trusted_in
from merge_assets.plan.describe import (
    difference_summary,
    dropped_tensors,
    folded_recipes,
    format_figure,
    geometry_summary,
    human_bytes,
    left_files,
    peak_memory_estimate,
    vocabulary_summary,
)
from merge_assets.plan.difference import difference
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.parameter_table import parameter_table
from merge_assets.recipe import Recipe
from merge_assets.recipe.choosing import choose_known
from merge_assets.settings import load_settings
from merge_assets.workspace import Automation
from merge_assets.workspace.staleness import Staleness

if TYPE_CHECKING:
    from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry


def show_recipes(words: Sequence[str] = (), *, as_json: bool) -> int:
    """Print recipes and what their evaluations would fail of; 1 if any is broken or would fail. Where all are listed, what is
    broken is, too."""
    workspace = opened()
    book = workspace.book
    chosen = frozenset(choose_known(book, words)) if words else book.recipes.keys()
    automation = Automation(workspace)
    staleness = Staleness(workspace, thorough=False)
    broken = [_broken_row(one.name, one.file, one.error) for one in book.broken if not words]
    broken += [_broken_row(suite.name, suite.file, suite.error) for suite in workspace.suites.broken if not words]
    rows = []
    for name in (one for one in book.order() if one in chosen):
        recipe = book.recipes[name]
        file = recipe.source.file
        try:
            with in_file(file):
                check_alone(recipe)
                workspace.names.check_models(recipe)
            rows.append(_recipe_row(workspace, automation, staleness, recipe))
        except MergeAssetsError as error:
            broken.append(_broken_row(name, file, error))
        except Exception as error:  # one recipe never keeps the others from being listed
            broken.append(_broken_row(name, file, RecipeError(in_one_line(error), file=file)))
    used = [suite for name in chosen for suite in api.suites_of(workspace, book.recipes[name])]
    findings = api.look_over(workspace, sorted(workspace.suites.keys() & set(used)))
    wrong = bool(broken) or any(one.fails for found in findings.values() for one in found)
    if as_json:
        print_json(
            {
                "recipes": rows,
                "searches": [name for name in book.searches if not words],
                "broken": broken,
                "evaluations": as_rows(findings),
            }
        )
        return int(wrong)
    heads = ("recipe", "method", "models", "suites", "builds by itself", "in the store", "out of date")
    keys = ("name", "method", "models", "suites", "automated", "built", "stale")
    listed = table(*heads, title="Recipes")
    for row in rows:
        listed.add_row(*(escape(printable(row[key])) for key in keys))
    print_table(listed)
    for recipe in book.searches.values() if not words else ():
        found = [one.name for one in book.recipes.values() if one.found and one.found.search == recipe.name]
        told = f"found {', '.join(found)}" if found else "has found nothing yet"
        print_fact("search", f"{recipe.name}; `merge-assets search {recipe.name}` looks for its best values; it {told}")
    for entry in broken:
        err().print(f"[bold red]broken:[/] {escape(entry['error'])}", soft_wrap=True)
    print_findings(findings, out=err())
    return int(wrong)


def _broken_row(name: str, file: Path, error: MergeAssetsError) -> dict[str, str]:
    return {"name": printable(name), "file": printable(str(file)), "kind": error.kind, "error": str(error)}


def _recipe_row(workspace: Workspace, automation: Automation, staleness: Staleness, recipe: Recipe) -> dict[str, str]:
    current = staleness.current(recipe.name)
    alone = "scores alone" if current is None and has_scores_alone(workspace, recipe) else ""
    return {
        "name": recipe.name,
        "file": str(recipe.source.file),
        "description": recipe.description,
        "method": recipe.merge_method,
        "models": ", ".join(str(reference) for reference in recipe.references()),
        "suites": ", ".join(_asked(workspace, recipe, name) for name in api.suites_of(workspace, recipe)),
        "automated": "yes" if recipe.materialize and automation.allows(recipe) else "no",
        "built": "not stored" if not recipe.materialize else short(current.version) if current else alone,
        "stale": staleness.reason(recipe) or "",
    }


def _asked(workspace: Workspace, recipe: Recipe, suite: str) -> str:
    """A suite, with what of it the recipe sets otherwise."""
    if suite not in workspace.suites:  # it is said below
        return suite
    otherwise = workspace.suite_of(suite, recipe).otherwise
    return f"{suite} ({', '.join(otherwise)})" if otherwise else suite


def show_plan(name: str, *, as_json: bool, shard_size: str | None, check: bool = False) -> int:
    """Print the plan of a recipe or a sweep; 1 if its evaluations were checked and one would fail."""
    workspace = opened()
    if name in workspace.book.sweeps:
        return show_sweep_plan(workspace, name, as_json=as_json)
    if name in workspace.book.searches:
        return show_search_plan(workspace, name, as_json=as_json)
    recipe = workspace.recipe(name)
    plan = api.plan(workspace, recipe, shard_size=parse_size(shard_size))
    suites = api.suites_of(workspace, recipe)
    findings = api.check(workspace, recipe, plan, suites) if check else api.look_over(workspace, suites, recipe)
    wrong = check and any(one.fails for found in findings.values() for one in found)
    if as_json:
        more = {"last_build": _last_build(workspace, recipe, plan), "evaluations": as_rows(findings)}
        print_json(json.loads(plan.to_json()) | more)
        return int(wrong)
    out = console()
    out.print(f"[bold]{escape(recipe.name)}[/]  {plan.method}  {escape(printable(recipe.description))}")
    print_layer_map(plan)
    _print_removed(plan)
    memory = peak_memory_estimate(plan, int(workspace.settings.memory))
    copied = sum(tensor.is_copy for tensor in plan.tensors)
    facts = {
        "layers": str(plan.layer_count),
        "parameters": f"{plan.parameter_count:,}",
        "tensors": f"{len(plan.tensors)} ({copied} copied unchanged)",
        "writes": f"{human_bytes(plan.bytes_to_write)} in {len(plan.shards)} shard{'s'[: len(plan.shards) != 1]}",
        "reads": human_bytes(plan.bytes_to_read),
        "peak memory": f"at most {human_bytes(memory)}",
    }
    if folded := folded_recipes(plan):
        facts["folds in"] = ", ".join(folded)
    if vocabulary := vocabulary_summary(plan):
        facts["vocabulary"] = vocabulary
    if code := code_summary(plan, trusted_in(workspace.book, recipe)):
        facts["code"] = code
    for label, value in facts.items():
        print_fact(label, value)
    for sentence in dropped_tensors(plan):
        print_fact("not used", sentence)
    if plan.left_files:
        print_fact("left behind", left_files(plan))
    _print_decisions(plan)
    told = {one.text for one in plan.decisions}
    for warning in (text for text in plan.warnings if text not in told):
        out.print(f"[yellow]warning[/] {escape(warning)}")
    _print_difference(workspace, recipe, plan)
    print_findings(findings, out=out, with_good=True)
    return int(wrong)


def print_layer_map(plan: Plan) -> None:
    """Print which output layers and parts are made of what, and with which parameters."""
    rows = layer_map(plan)
    parts = ["part"] if any(row.part for row in rows) else []
    layers = table(*parts, "output layers", "made of", title="Layer map")
    for row in rows:
        layers.add_row(*(escape(cell) for cell in ([row.part] if parts else []) + [row.output, row.sources]))
    print_table(layers)
    if parameters := parameter_table(plan):
        values = table("for", "parameter", "in", "value", title="Parameters")
        for one in parameters:
            values.add_row(*map(escape, (one.model, one.parameter, one.of, one.value)))
        print_table(values)


def _print_decisions(plan: Plan) -> None:
    if not plan.decisions:
        return
    title = "Tensors that are not the same in all models"
    decided = table("tensors", "what", "of", "first", "why", title=title, numbers=("tensors",))
    for one in plan.decisions:
        decided.add_row(str(one.count), one.what, escape(one.model), escape(one.example), escape(one.why))
    print_table(decided)


def _print_removed(plan: Plan) -> None:
    if not plan.removed_layers:
        return
    removed = table("layer", "tensor", "value", "margin", title="Removed layers", numbers=("value", "margin"))
    for figure in plan.removed_layers:
        value, margin = format_figure(figure["value"]), format_figure(figure["margin"]) if figure["tensor"] else ""
        removed.add_row(str(figure["layer"]), escape(str(figure["tensor"])), value, margin)
    print_table(removed)


def _print_difference(workspace: Workspace, recipe: Recipe, plan: Plan) -> None:
    if not recipe.materialize:
        consumers = ", ".join(workspace.book.consumers(recipe.name)) or "no recipe yet"
        print_fact("not stored", f"folded into {consumers}")
        return
    artifact = workspace.store.current(variant_line(recipe.name))
    if artifact is None:
        print_fact("last build", f"none in {workspace.store.url}")
        return
    try:
        made = difference(plan, artifact.read_bytes("plan.json").decode())
    except _UNREADABLE as error:
        console().print(f"[yellow]warning[/] the last build's plan cannot be read: {escape(str(error))}")
        return
    built = f"{artifact.version[:12]} of {artifact.manifest.created}"
    print_fact("last build", f"{built}: {difference_summary(made)}")
    if geometry := geometry_summary(artifact.manifest.common.geometry):
        print_fact("its inputs", geometry)


_UNREADABLE = (MergeAssetsError, ValueError, KeyError, TypeError, IndexError)
"""What reading a plan of an earlier program can raise."""


def _last_build(workspace: Workspace, recipe: Recipe, plan: Plan) -> dict[str, object] | None:
    """The current version and what differs from it; ``None`` if there is none."""
    artifact = workspace.store.current(variant_line(recipe.name)) if recipe.materialize else None
    if artifact is None:
        return None
    found: dict[str, object] = {"version": artifact.version, "created": artifact.manifest.created.isoformat()}
    try:
        return found | {"difference": asdict(difference(plan, artifact.read_bytes("plan.json").decode()))}
    except _UNREADABLE as error:
        return found | {"difference": None, "error": str(error)}


def show_leaderboard(
    words: Sequence[str] = (),
    *,
    as_json: bool,
    html: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Print the leaderboard, or of it some recipes and the models that they are made of."""
    from merge_assets.evaluation.exports import leaderboard_csv, leaderboard_latex
    from merge_assets.evaluation.leaderboard_tables import models_table
    from merge_assets.evaluation.page import leaderboard_page

    workspace = opened()
    ranked = None if words else api.rank(workspace)
    board = ranked.leaderboard if ranked else api.board_of(workspace, choose_known(workspace.book, words))
    made = [
        (file, make)
        for file, make in ((html, leaderboard_page), (csv, leaderboard_csv), (latex, leaderboard_latex))
        if file is not None
    ]
    for file, make in made:
        file.write_text(make(board), encoding="utf-8")
    if as_json:
        print(models_table(board).to_json(orient="records", indent=1))  # noqa: T201
        return
    _print_leaderboard(board)
    if ranked:
        console().print(f"page: {escape(ranked.artifact.url)}/leaderboard.html", soft_wrap=True)
    for file, _ in made:
        console().print(f"also written to {escape(str(file))}")


def _print_leaderboard(board: Leaderboard) -> None:
    """Values alone after a suite's first score, whose difference to the best parent is shown, too."""
    from merge_assets.evaluation.leaderboard import format_count
    from merge_assets.evaluation.leaderboard_texts import (
        LEGEND,
        cell_text,
        head_text,
        marks_of,
        rank_text,
        rows_of,
        value_text,
    )

    for suite in board.suites:
        columns = [column for column in board.columns if column.suite == suite]
        rows = rows_of(board, suite)
        shown: list[_Column] = [
            ("#", [rank_text(row) for row in rows]),
            ("model", [row.entry.model + marks_of(row, suite) for row in rows]),
            ("method", [row.entry.method or row.entry.kind for row in rows]),
            ("size", [format_count(row.entry.parameters) for row in rows]),
            ("layers", [str(row.entry.layers or "") for row in rows]),
        ]
        for column in columns:
            text = cell_text if column is columns[0] else value_text
            shown.append((head_text(column, columns), [text(row, column) for row in rows]))
        for block in _fitting(shown):
            heads = [escape(head) for head, _ in block]
            ranks = table(
                *heads, title=escape(suite), numbers=[head for head in heads if head not in ("model", "method")]
            )
            for texts in zip(*(texts for _, texts in block), strict=True):
                ranks.add_row(*(escape(printable(text)) for text in texts))
            print_table(ranks)
            console().print()
    _print_published(board)
    console().print(LEGEND if board.suites else "No scores yet.", soft_wrap=True, highlight=False)
    for row in board.rows:
        if row.entry.stale:
            print_fact(
                "out of date", f"{printable(row.entry.model)}: {printable(row.entry.stale)}", style="bold yellow"
            )
    flawed = {row.entry.model: _of_answers(row.entry) for row in board.rows}
    for row in board.rows:
        for note in row.notes:
            if note not in flawed[row.entry.model]:
                print_fact("note", f"{printable(row.entry.model)}: {printable(note)}")
    if count := sum(map(bool, flawed.values())):
        print_fact(
            "note", f"of {count} models some prompts were cut, or answers are empty or came to no end: see the page"
        )


def _of_answers(entry: LeaderboardEntry) -> frozenset[str]:
    """Notes on single prompts and answers, of which there may be one for each model and task."""
    from merge_assets.evaluation.flaws import told

    rows = ((scores.suite, row) for scores in entry.scores for row in scores.tasks)
    return frozenset(f"{suite}: {text}" for suite, row in rows for text in told(row.task, row.n, row.flaws))


def _print_published(board: Leaderboard) -> None:
    """What others published, beside what was measured here."""
    if not board.published:
        return
    heads = ("model", "suite", "benchmark", "published", "measured", "difference")
    shown = table(*heads, title="Published by others, accuracies in percent", numbers=heads[3:])
    for value in board.published:
        published, measured, difference = value.texts
        told = (value.model, value.suite or "", value.benchmark, published, measured or "not here", difference)
        shown.add_row(*(escape(printable(text)) for text in told))
    print_table(shown)
    for source in dict.fromkeys(value.source for value in board.published):
        print_fact("source", printable(source))
    console().print()


_Column = tuple[str, list[str]]
"""Of a table: its head and its cells."""


def _fitting(columns: Sequence[_Column]) -> list[list[_Column]]:
    """The columns of a table, on a terminal divided so that each part fits its width and has the models."""
    if not console().is_terminal:
        return [list(columns)]
    model = next(column for column in columns if column[0] == "model")
    blocks: list[list[_Column]] = [[]]
    for head, texts in columns:
        width = max(map(len, [*texts, ""]))
        column = "\n".join(textwrap.wrap(head.replace("_", " "), max(width, _HEAD))), texts
        if blocks[-1] and sum(map(_width, [*blocks[-1], column])) + 1 > console().width:
            blocks.append([model])
        blocks[-1].append(column)
    return blocks


_HEAD = 11
"""Characters that a head may take in any case."""


def _width(column: _Column) -> int:
    """Characters of a column with its frame."""
    head, texts = column
    return 3 + max(map(len, [*head.split("\n"), *texts]))


def show_settings() -> None:
    """Print every setting, its value and its origin."""
    settings = table("setting", "value", "from", title="Settings")
    for name, value, origin in load_settings().describe():
        settings.add_row(name, escape(str(value)), origin)
    print_table(settings)
