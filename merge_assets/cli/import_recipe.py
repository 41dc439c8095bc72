"""The command that imports a published merge config as a recipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.syntax import Syntax

from merge_assets import api
from merge_assets.api import Workspace
from merge_assets.api.import_recipe import STDIN, Found
from merge_assets.cli.console import console, err, print_fact
from merge_assets.cli.show import print_layer_map
from merge_assets.errors import MergeAssetsError, RecipeError
from merge_assets.recipe import Recipe


def run_import(
    source: str,
    to: Path | None,
    name: str | None,
    pick: int | None,
    keep: Sequence[str],
    replace: Sequence[str],
    with_parents: bool,
    store_steps: bool,
    only_print: bool,
    overwrite: bool,
) -> None:
    """Find, mend, show and write."""
    workspace = Workspace.open()
    stdin = sys.stdin.buffer.read() if source == STDIN else None
    found = api.import_recipe(
        workspace,
        source,
        name=name,
        pick=pick,
        keep=keep,
        store_steps=store_steps,
        replaced=_pairs(replace),
        with_parents=with_parents,
        stdin=stdin,
    )
    if only_print:
        _print_notes(found, err_stream=True)
        sys.stdout.write(found.imported.text)
        return
    target = api.write_recipe(workspace, found, to, overwrite=overwrite)
    console().print(Syntax(found.imported.text.rstrip(), "yaml", background_color="default", word_wrap=True))
    _print_notes(found)
    known = any(target.resolve().is_relative_to(folder.resolve()) for folder in workspace.settings.recipes)
    # Recipes that name each other are known by name once they lie among the others.
    after = Workspace.open() if known else workspace
    for recipe in found.imported.recipes if known or len(found.imported.recipes) == 1 else ():
        _print_layers(after, recipe)
    print_fact("written to", str(target))
    next_step = found.name if known or len(found.imported.recipes) > 1 else str(target)
    print_fact("next", f"merge-assets plan {next_step}")


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for old, sign, new in pairs:
        if not (old and sign and new):
            raise RecipeError(f"--replace {old}{sign}{new}: write OLD=NEW")
    return {old: new for old, _, new in pairs}


def _print_notes(found: Found, *, err_stream: bool = False) -> None:
    out = err() if err_stream else console()
    print_fact("found", f"{found.origin}: {found.imported.place}", out=out)
    print_fact("mended", ", ".join(found.imported.repairs) or "nothing", out=out)
    if dropped := found.imported.dropped:
        print_fact("left out", f"{', '.join(dropped)} (--keep takes one over)", out=out)
    for notice in found.imported.notices:
        print_fact("notice", notice, style="yellow", out=out)
    for sentence in found.imported.unread:
        print_fact("not read", sentence, style="yellow", out=out)
    for choice in found.imported.choices:
        print_fact("not certain", choice, style="yellow", out=out)
    for sentence in found.refused:
        print_fact("refused", f"by merge-assets plan: {sentence}", style="red", out=out)
    for sentence in found.local:
        print_fact("local", sentence, style="yellow", out=out)


def _print_layers(workspace: Workspace, recipe: Recipe) -> None:
    """The layer map where all models are known without the network, else what the recipe alone says of the layers."""
    try:
        kinds = {workspace.names.identify(reference).kind for reference in recipe.references()}
        if "hub" not in kinds:
            print_layer_map(api.plan(workspace, recipe))
            return
    except MergeAssetsError as error:
        print_fact("no plan yet", str(error), style="yellow")
        return
    ranges = [part.sources[0].layer_range for part in recipe.slices or ()]
    if ranges and None not in ranges:
        layers = sum(end - start for start, end in (layers for layers in ranges if layers is not None))
        print_fact("makes", f"{layers} layers of {len(ranges)} slice{'s'[: len(ranges) != 1]}")
    models = ", ".join(str(reference) for reference in recipe.references())
    print_fact("models", models)
