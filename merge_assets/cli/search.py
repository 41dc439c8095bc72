"""`merge-assets search`: look for the best values, show what was tried, and take what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merge_assets.cli.store import JsonOption

if TYPE_CHECKING:
    from merge_assets.api.confirm import Confirmed
    from merge_assets.api.search import OpenSearch
    from merge_assets.search.trials import Trial
    from merge_assets.workspace import Workspace

app = typer.Typer()


class Action(StrEnum):
    """What is done with a search."""

    RUN = "run"
    SHOW = "show"
    BEST = "best"
    PAGE = "page"
    EXPORT = "export"
    PROMOTE = "promote"


@app.command(rich_help_panel="Pipeline")
def search(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe with the key search.")],
    action: Annotated[
        Action,
        typer.Argument(
            help="`run`: try candidates; `show`: list them; `best`: the best, compared with the models that it is made of on "
            "documents that the search did not see; `page [FILE]`: pictures and all trials as one HTML file; `export FILE`; "
            "`promote [TRIAL]`: write one as a recipe."
        ),
    ] = Action.RUN,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|TRIAL]",
            help="The page's file; a .csv or .parquet file to export to; the trial to promote.",
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many in all; default: as the search says.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="Begin none later than that.")] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Begin none after as many documents were asked of all together.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Candidates that are tried at the same time.")] = 1,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With run: write the page now and then; it reloads itself in a browser."),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--as", help="Name of the promoted recipe; default: NAME-best, NAME-trial-TRIAL.")
    ] = None,
    than: Annotated[
        list[str] | None,
        typer.Option(help="`best`: compare with this model, too; a recipe's name is its variant. May be given again."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the promoted recipe's file.")] = False,
    json: JsonOption = False,
) -> None:
    """Look for the best values of places of a recipe.

    What was tried is kept: a search that was stopped or killed goes on, and several may run at once, also on other machines
    with the same store and the setting `searches`.
    """
    from merge_assets.cli.opened import opened
    from merge_assets.errors import SearchError

    if target is not None and action not in (Action.PAGE, Action.EXPORT, Action.PROMOTE):
        raise SearchError(f"{action.value} takes no {target!r}; see --help")
    if page is not None and action is not Action.RUN:
        raise SearchError(f"--page {page} is for run; `merge-assets search {name} page {page}` writes the page once")
    if than and action is not Action.BEST:
        raise SearchError(f"--than {than[0]} is for best; `merge-assets search {name} best --than {than[0]}` compares")
    workspace = opened()
    if action is Action.RUN:
        run_search(workspace, name, trials, hours, documents, workers, page, as_json=json)
        return
    from merge_assets.api.search import open_search

    found = open_search(workspace, name)
    if action is Action.SHOW:
        _show(found, as_json=json)
    elif action is Action.BEST:
        _best(workspace, found, {}, than or (), as_json=json)
    elif action is Action.PAGE:
        _page(found, target)
    elif action is Action.EXPORT:
        _export(found, target)
    else:
        _promote(workspace, found, target, called, overwrite=overwrite)


def run_search(
    workspace: Workspace,
    name: str,
    trials: int | None = None,
    hours: float | None = None,
    documents: int | None = None,
    workers: int = 1,
    page: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Try candidates, each a line as it is finished, then compare the best with the models that it is made of."""
    from contextlib import nullcontext

    from merge_assets import api
    from merge_assets.api.search_page import live_page
    from merge_assets.cli.console import err, progress_bar

    with progress_bar(f"searching {name}", is_bytes=False) as work:
        found = api.open_search(workspace, name, work.silent())
        live = nullcontext() if page is None else live_page(found, page, trials=trials, hours=hours)
        with live as shown:

            def report(trial: Trial) -> None:
                err().print(_line(trial), markup=False, highlight=False, soft_wrap=True)
                if shown is not None and (problem := shown.refresh()):
                    err().print(problem, markup=False, highlight=False, soft_wrap=True)

            if trials is None and hours is None and documents is None:
                made = api.conclude(workspace, name, workers=workers, opened=found, report=report, work=work)
                compared = made.compared
            else:  # what a search finds by another budget than its own is no variant
                api.search(
                    workspace,
                    name,
                    trials=trials,
                    hours=hours,
                    documents=documents,
                    workers=workers,
                    opened=found,
                    report=report,
                    work=work,
                )
                compared = {}
    _best(workspace, found, compared, (), as_json=as_json)


def _page(found: OpenSearch, target: str | None) -> None:
    from merge_assets.api.search_page import write_search_page
    from merge_assets.cli.console import print_fact

    file = Path(target or f"{found.recipe.name}.html")
    write_search_page(found, file)
    print_fact("written", str(file))


def _line(trial: Trial) -> str:
    from merge_assets.errors import printable

    values = ", ".join(f"{path} {_number(value)}" for path, value in trial.values.items())
    came = ", ".join(f"{label} {_number(value)}" for label, value in trial.told.get("objectives", {}).items())
    same = "" if trial.same_as is None else f", the same merge as {trial.same_as}"
    return printable(f"trial {trial.number} {trial.state}{same}: {values}: {trial.reason or came}")


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _show(found: OpenSearch, *, as_json: bool) -> None:
    """All trials, the best first marked."""
    from rich.markup import escape

    from merge_assets.cli.console import print_fact, print_json, print_table, table
    from merge_assets.errors import printable

    trials, best = found.trials.all(), {one.number for one in found.trials.best()}
    if as_json:
        print_json({"study": found.study, "best": sorted(best), "trials": [_as_json(one) for one in trials]})
        return
    paths = list(found.search.space)
    heads = ("trial", "", *map(escape, paths), *map(escape, found.labels))
    listed = table(*heads, title=f"Trials of {escape(found.recipe.name)}", numbers=("trial", *found.labels))
    for trial in trials:
        values = [_number(trial.values[path]) if path in trial.values else "" for path in paths]
        objectives = trial.told.get("objectives", {})
        came = [_number(objectives[label]) if label in objectives else "" for label in found.labels]
        same = "" if trial.same_as is None else f"as {trial.same_as}"
        state = "best" if trial.number in best else same if trial.state == "done" else trial.state
        listed.add_row(str(trial.number), state, *(escape(printable(text)) for text in (*values, *came)))
    print_table(listed)
    for trial in trials:
        if trial.reason:
            print_fact(f"trial {trial.number}", trial.reason)
    done = sum(one.is_finished for one in trials)
    print_fact("trials", f"{done} of {found.search.trials} finished; kept as {found.study}")


def _best(
    workspace: Workspace,
    found: OpenSearch,
    compared: Mapping[int, list[Confirmed]],
    than: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """The best trials beside the models that they are made of, and others; those in ``compared`` are compared already."""
    from rich.markup import escape

    from merge_assets.api.confirm import confirm
    from merge_assets.cli.console import console, print_fact, print_json, print_table, progress_bar, table
    from merge_assets.errors import SearchError
    from merge_assets.reference import ModelReference

    beside = [ModelReference.parse(text) for text in than]
    best = found.trials.best()
    if not best:
        raise SearchError(
            f"no trial of {found.recipe.name} is finished; `merge-assets search {found.recipe.name}` tries"
        )
    with progress_bar("comparing on documents that the search did not see", is_bytes=False) as work:
        left = [trial for trial in best if trial.number not in compared]
        compared = {
            **compared,
            **{trial.number: confirm(workspace, found, trial, work, beside=beside) for trial in left},
        }
    if as_json:
        rows = [_as_json(one) | {"compared": [_compared(row) for row in compared[one.number]]} for one in best]
        print_json({"study": found.study, "best": rows})
        return
    for trial in best:
        print_fact(f"trial {trial.number}", _line(trial).partition(": ")[2])
        heads = ("than", "by", "on the documents searched", "on documents not seen", "95 % of it", "too good by", "")
        listed = table(*heads, numbers=(*heads[2:4], heads[5]))
        for row in compared[trial.number]:
            figures = [
                "none kept" if one is None else f"{one:+.4g}" for one in (row.searched, row.confirmed, row.too_good)
            ]
            figures.insert(2, row.verdict.why if row.interval is None else "{:+.3g} to {:+.3g}".format(*row.interval))
            listed.add_row(escape(row.model), escape(row.objective), *map(escape, figures), row.verdict.word)
        print_table(listed)
    console().print(
        f"`merge-assets build {found.recipe.name}` builds what a whole search found; `merge-assets search {found.recipe.name} "
        "promote` writes a recipe of it",
        markup=False,
        soft_wrap=True,
    )


def _export(found: OpenSearch, target: str | None) -> None:
    from merge_assets.cli.console import print_fact
    from merge_assets.errors import SearchError
    from merge_assets.search.frame import frame_of

    file = Path(target or f"{found.recipe.name}.csv")
    rows = frame_of(found.trials.all(), list(found.search.space), list(found.labels))
    if file.suffix == ".csv":
        rows.to_csv(file, index=False)
    elif file.suffix == ".parquet":
        rows.to_parquet(file, index=False)
    else:
        raise SearchError(f"{file}: write the trials to a .csv or a .parquet file")
    print_fact("exported", f"{len(rows)} trials to {file}")


def _promote(
    workspace: Workspace, found: OpenSearch, target: str | None, called: str | None, *, overwrite: bool
) -> None:
    from merge_assets.api.promote import promote
    from merge_assets.cli.console import print_fact
    from merge_assets.errors import SearchError

    done = {str(one.number): one for one in found.trials.all() if one.state == "done"}
    best = found.trials.best()
    if target is None and len(best) != 1:
        which = ", ".join(str(one.number) for one in best) or "none is done"
        raise SearchError(f"say which trial is to be promoted; the best: {which}")
    number = target if target is not None else str(best[0].number)
    if number not in done:
        raise SearchError(f"there is no finished trial {number!r} of {found.recipe.name}; show lists them")
    file = promote(workspace, found, done[number], called, overwrite=overwrite)
    print_fact("promoted", f"trial {number} to {file}; `merge-assets build {file.stem}` builds it")


def _as_json(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "values": dict(trial.values),
        "objectives": dict(trial.told.get("objectives", {})),
        "told": {key: value for key, value in trial.told.items() if key != "objectives"},
        "reason": trial.reason,
    }


def _compared(row: Confirmed) -> dict[str, Any]:
    found = row.verdict.found
    return {
        "model": row.model,
        "objective": row.objective,
        "searched": row.searched,
        "confirmed": row.confirmed,
        "too_good": row.too_good,
        "verdict": row.verdict.word,
        "interval": row.interval,
        "p": None if found is None else found.p,
        "why": row.verdict.why,
    }
