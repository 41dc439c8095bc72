"""The commands and their options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from merge_assets.cli.published import app as published_app
from merge_assets.cli.search import app as search_app
from merge_assets.cli.selection import SelectionArgument, SelectOption, together
from merge_assets.cli.store import JsonOption
from merge_assets.cli.store import app as store_app

app = typer.Typer(
    name="merge-assets",
    help="Make new language models out of existing ones: a YAML recipe becomes a merged, analysed, evaluated and "
    "ranked model, with its lineage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(store_app, rich_help_panel="Pipeline")
app.add_typer(published_app)
app.add_typer(search_app)


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Name of a recipe, path of a YAML file, or a selection that means one recipe."
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="org/name[@revision] on the Hub, a local folder, a recipe's name, or a selection that means one recipe.",
    ),
]


def _device(text: str | None) -> str | None:
    from merge_assets.setting_types import check_device

    try:
        return text and check_device(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N",
        callback=_device,
        help="Where to compute; `cuda`: all GPUs; default: the recipe's, then the setting.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Worker threads; default: the setting.")]
RefreshOption = Annotated[
    bool,
    typer.Option("--refresh", help="Measure again, whatever is there, put it in its place, and say what changed."),
]


def _allow_pickle(on: bool) -> bool:
    if on:  # for the processes of a Dagster run, too
        os.environ["MERGE_ASSETS_ALLOW_PICKLE"] = "true"
    return on


PickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", callback=_allow_pickle, help="Read local models of pickled weights (*.bin), tensors only."
    ),
]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    if version:
        from merge_assets import __version__

        typer.echo(f"merge-assets {__version__}")
        raise typer.Exit


@app.command(rich_help_panel="Recipes")
def recipes(selection: SelectionArgument = None, select: SelectOption = None, json: JsonOption = False) -> None:
    """List recipes, all by default: what they merge, whether automation builds them, broken files and suites with their errors.

    Ends with code 1 if a file is broken or an evaluation would fail.
    """
    from merge_assets.cli.show import show_recipes

    raise typer.Exit(show_recipes(together(selection, select), as_json=json))


@app.command(rich_help_panel="Recipes")
def plan(
    recipe: RecipeArgument,
    json: JsonOption = False,
    shard_size: Annotated[str | None, typer.Option(help="Largest output shard, such as 5GB.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Also ask for the evaluations' data and make prompts of them; code 1 if one would fail."
        ),
    ] = False,
    allow_pickle: PickleOption = False,
) -> None:
    """Show what building a recipe would do, from file headers alone: no weights are read.

    Prints the layer map with the resolved parameter values, sizes, bytes to read and write, the memory needed, input
    tensors that are dropped, what differs from the last build, and what its evaluations would fail of.
    """
    from merge_assets.cli.show import show_plan

    raise typer.Exit(show_plan(recipe, as_json=json, shard_size=shard_size, check=check))


@app.command(rich_help_panel="Work on folders")
def merge(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the merged model.")],
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    shard_size: Annotated[str | None, typer.Option(help="Largest output shard, such as 5GB.")] = None,
    tile: Annotated[int | None, typer.Option(min=1024, help="Elements per tile; does not change the result.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it holds files.")] = False,
    allow_pickle: PickleOption = False,
    json: JsonOption = False,
) -> None:
    """Merge a recipe's models into a folder, without Dagster: the counterpart of `mergekit-yaml CONFIG OUT`.

    OUT appears when it is complete; an interrupted merge leaves nothing behind.
    """
    from merge_assets.cli.work import run_merge

    run_merge(recipe, out, device, threads, shard_size, tile, overwrite, as_json=json)


@app.command(rich_help_panel="Work on folders")
def snr(
    model: ModelArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for tables, exports and plots; without it, the result is kept in the store."),
    ] = None,
    modules: Annotated[
        str | None, typer.Option(help="Parts of tensor names, separated by commas: v_proj,o_proj. Default: all.")
    ] = None,
    top_percent: Annotated[
        float, typer.Option(min=0, max=100, help="Share of each module type in the axolotl export.")
    ] = 50,
    spectrum_compat: Annotated[
        bool, typer.Option("--spectrum-compat", help="In the exports, count a missing noise as 1, as Spectrum does.")
    ] = False,
    refresh: RefreshOption = False,
) -> None:
    """Signal-to-noise ratio of every weight matrix from its singular values.

    Writes snr.parquet, snr.json, spectra.safetensors, exports for Spectrum, laser_scanner and axolotl, and plots.
    """
    from merge_assets.cli.work import run_snr

    run_snr(model, out, modules.split(",") if modules else None, top_percent, spectrum_compat, refresh)


@app.command(rich_help_panel="Work on folders")
def importance(
    model: ModelArgument,
    text: Annotated[str, typer.Option(help="Plain text that the model is run on.")],
    kind: Annotated[
        str,
        typer.Option(
            help="activations: block influence and angular distances, in one pass. perplexity: without each layer in turn."
        ),
    ] = "activations",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens that are used, from the beginning of the text.")] = 16384,
    length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a piece; default: 512, or the model's context if less.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16: of weights and hidden states.")] = "float32",
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and plots; without it, the result is kept in the store.")
    ] = None,
    refresh: RefreshOption = False,
) -> None:
    """What each layer is worth on a text, one layer in memory at a time.

    Says what it will take before it begins. Writes importance.json, importance.parquet and plots.
    """
    from merge_assets.cli.work import run_importance

    run_importance(model, kind, {"file": text, "tokens": tokens, "length": length, "dtype": dtype}, out, refresh)


@app.command(rich_help_panel="Work on folders")
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Models: each a folder, Hub id, URL, or a selection of recipes."),
    ] = None,
    select: SelectOption = None,
    suite: Annotated[str | None, typer.Option(help="Name of a suite; default: the setting default_suites.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores and samples; without it, the result is kept in the store.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents per task, for a quick look; needs --out.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences per forward pass; needs --out.")] = None,
    device: DeviceOption = None,
    refresh: RefreshOption = False,
    documents: Annotated[
        Literal["all", "search", "confirm"],
        typer.Option(
            help="Of each task: all, those that a search may see, or those that the suite's confirm keeps from it; the last "
            "two need --out."
        ),
    ] = "all",
) -> None:
    """Evaluate models on a suite with lm-eval, one after the other; an interrupted evaluation continues with the next task.

    Several models of one call share what is slow to import.
    """
    from merge_assets.cli.work import run_evaluate

    run_evaluate(together(models, select), suite, out, limit, batch_size, device, refresh, documents)


@app.command(rich_help_panel="Pipeline")
def build(
    selection: SelectionArgument = None,
    select: SelectOption = None,
    only: Annotated[bool, typer.Option("--only-variants", help="Merge, but do not evaluate or rank.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Make everything selected again, also what is up to date: variants are computed and compared with what is "
            "stored, analyses and scores measured.",
        ),
    ] = False,
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Measure analyses and scores again, and put what comes out in their place."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be made, and why. Nothing is built or recorded.")
    ] = False,
    json: JsonOption = False,
    allow_pickle: PickleOption = False,
) -> None:
    """Bring recipes, with what they need, up to date through Dagster: observe, analyse, merge, evaluate, rank. Default:
    everything automated.

    What is up to date is left alone, and said so. What runs is shown with how far it is; --json prints one document at the
    end. The runs are in the UI afterwards. Ends with code 1 if a step failed, or in a dry run if something could not be made;
    a variant that is computed again and comes out otherwise than it is stored is such a failure.
    """
    from merge_assets.cli.pipeline import run_build

    names = together(selection, select)
    made = run_build(names, with_scores=not only, force=force, refresh=refresh, dry_run=dry_run, as_json=json)
    raise typer.Exit(made)


@app.command(rich_help_panel="Pipeline")
def status(selection: SelectionArgument = None, select: SelectOption = None, json: JsonOption = False) -> None:
    """Show what is running, waiting, failing, cancelled or late, why, and when it is tried again; changes nothing.

    Of recipes that are named, with all that they need; default: of everything.

    Ends with code 1 if a person is needed: something fails that will fail again, a check or a recipe is wrong, or nothing
    would make what is to be made.
    """
    from merge_assets.cli.status import show_status

    raise typer.Exit(show_status(together(selection, select), as_json=json))


@app.command(rich_help_panel="Pipeline")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="RECIPE, RECIPE@VERSION, or any LINE[@VERSION] of `store ls`.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="Likewise; without it, A is compared with the version before it."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare two stored versions: recipe and parameters, inputs, code, tensors that differ, scores."""
    from merge_assets.cli.compare import run_diff

    run_diff(a, b, as_json=json)


@app.command(rich_help_panel="Pipeline")
def leaderboard(
    selection: SelectionArgument = None,
    select: SelectOption = None,
    json: JsonOption = False,
    html: Annotated[Path | None, typer.Option(help="Also write the HTML page to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the table as CSV to this file.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Also write a LaTeX table per suite to this file.")] = None,
) -> None:
    """Rank everything evaluated so far, or some recipes beside what they are made of; the store keeps the whole."""
    from merge_assets.cli.show import show_leaderboard

    show_leaderboard(together(selection, select), as_json=json, html=html, csv=csv, latex=latex)


@app.command(rich_help_panel="Pipeline")
def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the web server; 0 takes a free one.")] = 3000,
    host: Annotated[
        str, typer.Option(help="Address of the web server. Any but this machine's own needs a token (`ui_token`).")
    ] = "127.0.0.1",
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Refuse whatever changes something: launching, reporting, reloading, …")
    ] = False,
    workspace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", resolve_path=True, help="Where the code is; default: workspace.yaml, else definitions.py."
        ),
    ] = None,
    daemon: Annotated[
        bool, typer.Option("--daemon/--no-daemon", help="Run the daemon, or only the web server.")
    ] = True,
    no_login: Annotated[
        bool, typer.Option("--no-login", help="Serve other machines without a token: something else asks for one.")
    ] = False,
) -> None:
    """Start the Dagster UI and the daemon that rebuilds what changed.

    Pages of other sites, unknown host names and mutations by GET are refused; with the setting `ui_token` people log in.
    """
    from merge_assets.cli.pipeline import run_ui

    raise typer.Exit(run_ui(host, port, workspace, daemon, read_only, login=not no_login))


@app.command(name="code-server", rich_help_panel="Pipeline")
def code_server(
    host: Annotated[str, typer.Option(help="Address of the code server; it asks nobody who they are.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the code server.")] = 4000,
) -> None:
    """Serve this project's recipes to a web server and a daemon elsewhere, and read them again when they change."""
    from merge_assets.cli.pipeline import run_code_server

    run_code_server(host, port)


@app.command(rich_help_panel="Pipeline")
def demo() -> None:
    """Build, analyse, evaluate and rank the demo recipes, search for a mix of two models, then say where to look."""
    from merge_assets.cli.pipeline import run_demo

    raise typer.Exit(run_demo())


@app.command(rich_help_panel="Recipes")
def settings() -> None:
    """Print every setting with its value and where it comes from; secrets are hidden."""
    from merge_assets.cli.show import show_settings

    show_settings()
