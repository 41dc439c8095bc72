"""The commands about what others published: their configs become recipes, their models are compared with one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from merge_assets.cli.store import JsonOption

app = typer.Typer()


@app.command(name="import", rich_help_panel="Recipes")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="org/name[@revision] on the Hub or its page's address, a model card, a saved web page, a YAML file, "
            "a folder with one of them, or - for standard input.",
        ),
    ],
    to: Annotated[
        Path | None, typer.Option(help="File to write; default: NAME.yaml in the first folder of recipes.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the recipe; default: the config's own, else the source's.")
    ] = None,
    pick: Annotated[
        int | None,
        typer.Option(min=1, help="Which of several configs, with those that it is made of; default: the final one."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Take this key over, too: schedule, freshness, keep, publish, evaluate, device, allow_nonfinite, owners, "
            "trust_remote_code, or all. They are left out unless named here, since they are the author's, not the merge's. "
            "May be given several times.",
        ),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Write NEW for a model that the config names OLD, or that lies in the folder OLD. May be given several times.",
        ),
    ] = None,
    with_parents: Annotated[
        bool,
        typer.Option(
            "--with-parents",
            help="Import the models of the Hub that it is made of, too, as far as they are merges themselves.",
        ),
    ] = False,
    store_steps: Annotated[
        bool,
        typer.Option(
            "--store-steps",
            help="Store every step of a merge in several stages; else they are folded into what is made of them.",
        ),
    ] = False,
    only_print: Annotated[bool, typer.Option("--print", help="Print the recipe and write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Turn a published merge config into a recipe.

    Finds it in the source, mends what copying broke (lost indentation, typographic quotes, tabs, line numbers, …), shows
    the result and writes it. Models that are named in it are not fetched; those that are paths of the author's machine are
    said.
    """
    from merge_assets.cli.import_recipe import run_import

    run_import(source, to, name, pick, keep or (), replace or (), with_parents, store_steps, only_print, overwrite)


@app.command(rich_help_panel="Recipes")
def compare(
    built: Annotated[
        str, typer.Argument(metavar="BUILT", help="A recipe that was built, a folder, or org/name on the Hub.")
    ],
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="What it should be: the same kinds.")],
    every_byte: Annotated[
        bool, typer.Option("--all", help="Compare every byte; default: 64 KiB of each tensor, spread over it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a model that was built is the one that others published.

    Headers are compared first, then the numbers of each tensor, by tensor and by layer, configs and tokenizers. Of a model
    on the Hub only the ranges that are compared are fetched. The exit code is 1 if it is another model.
    """
    from merge_assets.cli.likeness import run_compare

    run_compare(built, reference, every_byte=every_byte, as_json=as_json)
