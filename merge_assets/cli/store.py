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
    typer.Argument(
        metavar="[LINE]...",
        help="Such as variants/NAME, a kind such as variants, a pattern of lines ('scores/*/demo'), or a selection of recipes "
        "as `merge-assets build` takes it, for their variants; default: all.",
    ),
]
VersionArgument = Annotated[
    str,
    typer.Argument(
        metavar="LINE[@VERSION]",
        help="A version, which may be cut short; default: the current one. Or what means one line, as in `store ls`.",
    ),
]
VersionsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[LINE[@VERSION]]...",
        help="Versions, or lines with all of theirs, also by patterns and selections; default: everything.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; an error, too, beside its line.")]
SampledOption = Annotated[bool, typer.Option("--sampled", help="Read about a thousandth instead of every byte.")]
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
    sampled: SampledOption = False,
    json: JsonOption = False,
) -> None:
    """Compare every byte with the digests that were recorded when it was written.

    Ends with code 1 if something is wrong; says what was made from it, and what to do about it.
    """
    from merge_assets.cli.housekeeping import verify_versions

    raise typer.Exit(verify_versions(versions or [], sampled=sampled, as_json=json))


@app.command()
def repair(
    versions: VersionsArgument = None,
    sampled: SampledOption = False,
    lost: Annotated[
        bool, typer.Option("--lost", help="Remove also what cannot be made again as it was, such as older versions.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove and make it again; without this, only say what would be done.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Remove damaged versions and all that was made from them, and make them again in order; without `--yes`, only say so.

    What was made from damaged bytes cannot be told from what was made before they were damaged, so both are made again. Ends
    with code 1 if something could not be made.
    """
    from merge_assets.cli.repair import repair_versions

    raise typer.Exit(repair_versions(versions or [], sampled=sampled, lost=lost, yes=yes, as_json=json))


@app.command()
def audit(versions: VersionsArgument = None, json: JsonOption = False) -> None:
    """Read again what versions were made from, and say what still is what it was, what changed since, and what is gone.

    A model that changed is no damage. Ends with code 1 if a version of the store that others were made from is damaged.
    """
    from merge_assets.cli.repair import audit_versions

    raise typer.Exit(audit_versions(versions or [], as_json=json))


@app.command()
def gc(
    lines: LinesArgument = None,
    keep: Annotated[
        int,
        typer.Option(
            min=1, help="Newest versions of each line that stay in any case, where no recipe says it with `keep`."
        ),
    ] = 2,
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
    what a recipe names by its revision. Of a sweep with `keep: best N` the other points go, and their scores stay. With lines,
    nothing else goes.
    """
    from merge_assets.cli.housekeeping import collect_garbage

    collect_garbage(keep, older_than, lines or [], yes=yes, as_json=json)


@app.command()
def rm(
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="LINE[@VERSION]...",
            help="Versions, or lines with all of theirs, also by patterns and selections of recipes.",
        ),
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
