"""Contract of `merge-assets ui`: web server, daemon and code server in one command, and none of them left after it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from merge_assets.errors import SettingsError
from merge_assets.pipeline.front.serve import Serving, serve
from merge_assets.settings import Settings
from tests.families import command_of, kill, lives

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 560.0  # seconds after which something hangs; on a busy machine, processes take long to start
RECIPE = """\
merge_method: linear
models: [{model: org/one, parameters: {weight: 1}}]
"""
SECRET = secrets.token_hex()


@contextmanager
def running(root: Path, definitions: str = "", settings: str = "") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The command in a project, started as shells start jobs in the background; and its address.

    Args:
        root: of the project, which is made.
        definitions: Python code that runs before ``definitions.py``, in every process that loads it.
        settings: further lines of ``merge-assets.toml``.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGE_ASSETS_", "DAGSTER_"))}
    (root / "recipes").mkdir()
    (root / "recipes" / "first.yaml").write_text(RECIPE)
    (root / "merge-assets.toml").write_text(f'default_suites = []\nenabled = ["second"]\n{settings}')
    (root / "definitions.py").write_text(f"{definitions}\n{(REPOSITORY / 'definitions.py').read_text()}")
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "merge_assets", "ui", "--port", "0"],
            cwd=root,
            env=kept | {"PYTHONPATH": str(REPOSITORY), "MERGE_ASSETS_UI_TOKEN": SECRET},
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
    family: list[psutil.Process] = []

    def address() -> str | None:
        assert process.poll() is None, (root / "log").read_text()[-3000:]
        found = re.search(r"^http://127\.0\.0\.1:\d+", (root / "log").read_text(), re.MULTILINE)
        return found[0] if found else None

    try:
        wait(lambda: address() is not None, root)
        family = psutil.Process(process.pid).children(recursive=True)
        yield process, address() or ""
    finally:
        process.kill()
        for child in family:
            kill(child)


def wait(done: Callable[[], bool], root: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, (root / "log").read_text()[-3000:]
        time.sleep(0.2)


def ask(address: str, query: str, token: str = SECRET) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{address}/graphql", json.dumps({"query": query}).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=PATIENCE))["data"]


SCHEDULES = """{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
  ... on RepositoryLocation { repositories { schedules { name } } } } } } } }"""


@pytest.mark.slow
def test_the_ui_runs_daemon_and_code_server_takes_new_recipes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def assets() -> set[str]:
        nodes = ask(address, "{ assetNodes { assetKey { path } } }")["assetNodes"]
        return {"/".join(node["assetKey"]["path"]) for node in nodes}

    def schedules() -> set[str]:
        (entry,) = ask(address, SCHEDULES)["workspaceOrError"]["locationEntries"]
        loaded = entry["locationOrLoadError"] or {"repositories": []}
        return {one["name"] for repository in loaded["repositories"] for one in repository["schedules"]}

    with running(tmp_path) as (process, address):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(address, "{ version }", token="another")
        assert "variants/first" in assets()

        (tmp_path / "recipes" / "second.yaml").write_text(RECIPE)
        wait(lambda: "variants/second" in assets(), tmp_path)
        (tmp_path / "recipes" / "second.yaml").write_text(f"{RECIPE}schedule: '0 5 * * *'\n")
        wait(lambda: schedules() == {"recipes_second"}, tmp_path)
        (tmp_path / "recipes" / "second.yaml").unlink()
        wait(lambda: schedules() == set(), tmp_path)
        health = '{ instance { daemonHealth { daemonStatus(daemonType: "SENSOR") { healthy } } } }'
        wait(lambda: bool(ask(address, health)["instance"]["daemonHealth"]["daemonStatus"]["healthy"]), tmp_path)

        children = psutil.Process(process.pid).children(recursive=True)
        assert any("dagster._daemon" in command_of(child) for child in children)
        # The command is two processes itself (pipeline/front/warden.py).
        knowing = []
        for child in children:
            with suppress(psutil.NoSuchProcess):  # Dagster's servers come and go
                if SECRET in child.environ().values():
                    knowing.append(child.cmdline())
        assert all(command == psutil.Process(process.pid).cmdline() for command in knowing) and len(knowing) <= 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        wait(lambda: not any(map(lives, children)), tmp_path)
    assert SECRET not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_are_not_served_without_a_token_unless_told(host: str) -> None:
    with pytest.raises(SettingsError, match=r"MERGE_ASSETS_UI_TOKEN.*--no-login"):
        serve(Settings(), Serving(host=host), lambda address: None)


@pytest.mark.slow
def test_an_address_that_is_taken_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "merge_assets", "ui", "--port", port]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ran.returncode == 2
    assert f"--port {port}: Address already in use" in ran.stderr and "Traceback" not in ran.stderr
