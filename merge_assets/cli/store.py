"""The commands ``merge-assets store …`` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="store",
    help="Look at the artifact store, check it and clear it up.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

LinesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LINE]...", help="Such as variants/NAME, or a kind such as variants; default: all."),
]
VersionArgument = Annotated[
    str, typer.Argument(metavar="LINE[@VERSION]", help="A version, which may be cut short; default: the current one.")
]
VersionsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LINE[@VERSION]]...", help="Versions, or lines with all of theirs; default: everything."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; an error, too, beside its line.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Remove it; without this, only say what would be removed.")]


@app.command("ls")
def ls(lines: LinesArgument = None, json: JsonOption = False) -> None:
    """List versions by line: size, what each was made from, what is current or pinned, and what is unfinished."""
    from merge_assets.cli.housekeeping import list_store

    list_store(lines or [], as_json=json)


@app.command()
def show(version: VersionArgument, json: JsonOption = False) -> None:
    """Show what a version holds, what it was made from and how, and who uses it."""
    from merge_assets.cli.housekeeping import show_version

    show_version(version, as_json=json)


@app.command()
def verify(
    versions: VersionsArgument = None,
    sampled: Annotated[bool, typer.Option("--sampled", help="Read about a thousandth instead of every byte.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare every byte with the digests that were recorded when it was written.

    Ends with code 1 if something is wrong, and says what to do about it.
    """
    from merge_assets.cli.housekeeping import verify_versions

    raise typer.Exit(verify_versions(versions or [], sampled=sampled, as_json=json))


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each line that stay in any case.")] = 2,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Leave everything younger alone, such as 90m, 12h or 3d. Default: 1h; 7d for unfinished builds, which "
            "the next build of the same goes on with.",
        ),
    ] = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Remove versions that nobody needs, and what killed builders left; without `--yes`, only say what would go.

    Stays in any case: the current version of every line, all that these were made from, what running builds use, and
    what a recipe names by its revision.
    """
    from merge_assets.cli.housekeeping import collect_garbage

    collect_garbage(keep, older_than, yes=yes, as_json=json)


@app.command()
def rm(
    versions: Annotated[
        list[str], typer.Argument(metavar="LINE[@VERSION]...", help="Versions, or lines with all of theirs.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Remove also what others need.")] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Remove versions, unless others need them; without `--yes`, only say what would go.

    If the current version of a line goes, the newest that is left takes its place.
    """
    from merge_assets.cli.housekeeping import remove_versions

    remove_versions(versions, force=force, yes=yes, as_json=json)
