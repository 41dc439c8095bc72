"""Commands that go through Dagster: build, ui, demo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from rich.markup import escape

from merge_assets.cli.building import STYLES, BuildDisplay
from merge_assets.cli.console import console, err, print_json
from merge_assets.cli.opened import opened
from merge_assets.cli.search import run_search
from merge_assets.cli.show import show_leaderboard
from merge_assets.errors import Stopped
from merge_assets.extras import require
from merge_assets.pipeline import outcome as words
from merge_assets.pipeline import reloading
from merge_assets.pipeline.home import missing_settings, prepare_home
from merge_assets.pipeline.run import Materialised, materialise
from merge_assets.settings import Settings, load_settings
from merge_assets.workspace import open_store

_SEARCH = "best-mix"
"""The search among the demo's recipes; of a project without it nothing is sought."""


def run_build(
    names: Sequence[str],
    *,
    with_scores: bool = True,
    force: bool = False,
    refresh: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
) -> int:
    """Bring recipes up to date and print what became of every asset; 1 if something failed.

    Args:
        names: recipes; none means those that automation may build.
        with_scores: also evaluate and rank.
        force: make everything selected again.
        refresh: measure analyses and scores again.
        dry_run: only say what would be made and why; 1 if something could not.
        as_json: one document at the end instead of lines.

    Raises:
        Stopped: after all was printed, if a signal ended it.
    """
    if not dry_run:
        _open_home(load_settings())
    began = time.perf_counter()
    display = None if as_json else BuildDisplay(console())
    with display or nullcontext():
        made = materialise(
            list(names), with_scores=with_scores, force=force, refresh=refresh, dry_run=dry_run, report=display
        )
    if as_json:
        print_json({"failed": made.failed, "dry_run": dry_run} | asdict(made))
    else:
        _print_summary(made, time.perf_counter() - began, dry_run=dry_run)
    if made.ending is not None and made.ending.state == words.STOPPED:
        raise Stopped
    if made.ending is not None and not as_json:
        _print_ending(made.ending)
    return int(made.failed)


def _print_summary(made: Materialised, seconds: float, *, dry_run: bool) -> None:
    counts = [f"{made.count(state)} {state}" for state in STYLES if made.count(state)]
    console().print(f"{', '.join(counts)} in {seconds:.0f} s")
    if made.run_id is None and not made.failed and not made.count(words.WOULD):
        console().print("[green]Nothing to do: everything is up to date.[/]")
    elif dry_run:
        console().print("This was a dry run: nothing was made.")


def _open_home(settings: Settings) -> None:
    open_store(settings).check()
    missing = missing_settings(prepare_home(settings))
    if missing:
        err().print(f"hint: {missing}", style="dim", markup=False, soft_wrap=True, highlight=False)


def _print_ending(ending: words.Ending) -> None:
    lines = [f"[{STYLES[words.FAILED]}]the run {ending.run_id} {words.HOW[ending.state]}[/]: {escape(ending.reason)}"]
    if ending.keys:
        lines.append(f"not made because of it: {escape(', '.join(ending.keys))}")
    lines.append("its whole log is in the UI (merge-assets ui, Runs); the next build goes on with what is finished")
    console().print("\n".join(lines), soft_wrap=True, highlight=False)


def run_demo() -> int:
    """Build everything that needs no Hub, print the leaderboard, search for a mix, print what was found and where to look."""
    failed = run_build([])
    console().print()
    show_leaderboard(as_json=False)
    settings, workspace = load_settings(), opened()
    if _SEARCH in workspace.book.searches:
        console().print(f"\nthe search {_SEARCH}, whose suite keeps half of the text from it")
        run_search(workspace, _SEARCH)
    console().print(
        f"\nmerged models   {open_store(settings).url}/variants\n"
        f"lineage, runs   make ui, then http://127.0.0.1:3000\n"
        f"a plan          .venv/bin/merge-assets plan slerp-gradient\n"
        f"a sweep         .venv/bin/merge-assets plan slerp\n"
        f"a search        .venv/bin/merge-assets search {_SEARCH} show\n"
        f"your own        put a YAML recipe into {settings.recipes[0]}, then .venv/bin/merge-assets build NAME",
        soft_wrap=True,
        highlight=False,
    )
    return failed


def run_ui(host: str, port: int, workspace: Path | None, daemon: bool, read_only: bool, login: bool) -> int:
    """Serve the UI, with daemon and code location of this project, until it is stopped; 1 if it ended by itself."""
    require("dagster_webserver")
    from merge_assets.pipeline.front.warden import watched

    settings = load_settings()
    return watched(lambda: _serve(settings, host, port, workspace, daemon, read_only, login))


def _serve(
    settings: Settings, host: str, port: int, workspace: Path | None, daemon: bool, read_only: bool, login: bool
) -> int:
    from merge_assets.pipeline.front.serve import Serving, serve

    _open_home(settings)
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning")
    serving = Serving(
        host=host,
        port=port,
        workspace=workspace,
        with_daemon=daemon,
        read_only=read_only or settings.ui_read_only,
        without_login=not login,
    )
    ended = serve(settings, serving, lambda address: console().print(f"{address}  (Ctrl-C stops it)", highlight=False))
    if ended:
        err().print(f"[bold red]error:[/] {ended}; what it said is above", highlight=False)
    return int(bool(ended))


def run_code_server(host: str, port: int) -> NoReturn:
    """Become the code server of this project, with a child that tells it of changes of the folders and ends with it."""
    os.chdir(load_settings().root)
    near = {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host)
    subprocess.Popen([sys.executable, "-m", reloading.__name__, near, str(port)])
    command = ["-m", "dagster", "code-server", "start", "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *command, "--module-name", "definitions"])
