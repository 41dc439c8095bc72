"""The command that imports a published merge config as a recipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.syntax import Syntax

from merge_assets import api
from merge_assets.api import Workspace
from merge_assets.api.import_recipe import STDIN, Found
from merge_assets.cli.console import console, err
from merge_assets.cli.show import print_layer_map
from merge_assets.errors import MergeAssetsError
from merge_assets.recipe import Recipe


def run_import(
    source: str,
    to: Path | None,
    name: str | None,
    pick: int | None,
    keep: Sequence[str],
    only_print: bool,
    overwrite: bool,
) -> None:
    """Find, mend, show and write."""
    workspace = Workspace.open()
    stdin = sys.stdin.buffer.read() if source == STDIN else None
    found = api.import_recipe(workspace, source, name=name, pick=pick, keep=keep, stdin=stdin)
    if only_print:
        _print_notes(found, err_stream=True)
        sys.stdout.write(found.imported.text)
        return
    target = api.write_recipe(workspace, found, to, overwrite=overwrite)
    out = console()
    out.print(Syntax(found.imported.text.rstrip(), "yaml", background_color="default", word_wrap=True))
    _print_notes(found)
    for recipe in found.imported.recipes:
        _print_layers(workspace, recipe)
    out.print(f"[bold]{'written to':>12}[/]  {escape(str(target))}", soft_wrap=True)
    known = any(target.resolve().is_relative_to(folder.resolve()) for folder in workspace.settings.recipes)
    next_step = found.name if known or len(found.imported.recipes) > 1 else str(target)
    out.print(f"[bold]{'next':>12}[/]  merge-assets plan {escape(next_step)}", soft_wrap=True)


def _print_notes(found: Found, *, err_stream: bool = False) -> None:
    out = err() if err_stream else console()
    out.print(f"[bold]{'found':>12}[/]  {escape(found.origin)}: {escape(found.imported.place)}", soft_wrap=True)
    out.print(f"[bold]{'mended':>12}[/]  {escape(', '.join(found.imported.repairs) or 'nothing')}", soft_wrap=True)
    if dropped := found.imported.dropped:
        out.print(f"[bold]{'left out':>12}[/]  {', '.join(dropped)} (--keep takes one over)", soft_wrap=True)
    for choice in found.imported.choices:
        out.print(f"[yellow]{'not certain':>12}[/]  {escape(choice)}", soft_wrap=True)
    for sentence in found.local:
        out.print(f"[yellow]{'local':>12}[/]  {escape(sentence)}", soft_wrap=True)


def _print_layers(workspace: Workspace, recipe: Recipe) -> None:
    """The layer map where all models are known without the network, else what the recipe alone says of the layers."""
    out = console()
    try:
        kinds = {workspace.names.identify(reference).kind for reference in recipe.references()}
        if "hub" not in kinds:
            print_layer_map(api.plan(workspace, recipe))
            return
    except MergeAssetsError as error:
        out.print(f"[yellow]{'no plan yet':>12}[/]  {escape(str(error))}", soft_wrap=True)
        return
    ranges = [part.sources[0].layer_range for part in recipe.slices or ()]
    if ranges and None not in ranges:
        layers = sum(end - start for start, end in (layers for layers in ranges if layers is not None))
        out.print(f"[bold]{'makes':>12}[/]  {layers} layers of {len(ranges)} slice{'s'[: len(ranges) != 1]}")
    models = ", ".join(str(reference) for reference in recipe.references())
    out.print(f"[bold]{'models':>12}[/]  {escape(models)}", soft_wrap=True)
