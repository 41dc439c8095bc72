"""Running the UI: Dagster's web server behind the gate and, with it, the daemon and the code server of the project."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import uvicorn
import yaml
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget, WorkspaceLoadTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.types import ASGIApp

from merge_assets.errors import SettingsError
from merge_assets.pipeline.front.gate import Gate
from merge_assets.pipeline.front.login import Login
from merge_assets.pipeline.front.origins import OwnNames, is_loopback
from merge_assets.pipeline.home import open_instance
from merge_assets.pipeline.reloading import Changes, keep_up, reload_at
from merge_assets.settings import PREFIX, Settings

STATEMENT_MILLISECONDS, POOL_RECYCLE_SECONDS, POOL_OVERFLOW = 15_000, 3_600, 20
"""Limits of the database in a server of many requests: those of `dagster-webserver`."""
STOP_SECONDS = 60
"""How long the daemon may take to stop."""
OPEN_SECONDS = 5
"""How long open connections of browsers keep the server from stopping."""
POLL_MILLISECONDS = 2_000


@dataclass(frozen=True)
class Serving:
    """How the UI is served.

    Attributes:
        host, port: where; port 0 takes a free one.
        workspace: file that says where the code is; default: ``workspace.yaml`` of the project, else its
            ``definitions.py``.
        with_daemon: also run the daemon, and one code server for both; else the code server that the workspace names.
        read_only: refuse whatever changes something.
        without_login: serve other machines without a token.
    """

    host: str = "127.0.0.1"
    port: int = 3000
    workspace: Path | None = None
    with_daemon: bool = True
    read_only: bool = False
    without_login: bool = False


def serve(settings: Settings, serving: Serving, on_ready: Callable[[str], None]) -> str | None:
    """Serve the UI until SIGINT or SIGTERM, then stop all that was started for it.

    Args:
        settings: of the project.
        serving: how.
        on_ready: called with the address once it is answered.

    Returns:
        Why it stopped without being asked to; ``None`` if it was.

    Raises:
        SettingsError: it would be open to others without a token, or the address cannot be taken.
    """
    if not (is_loopback(serving.host) or settings.ui_token or serving.without_login):
        raise SettingsError(
            f"--host {serving.host}: other machines can reach the UI there, and whoever does can start runs; "
            f"set a token (ui_token, {PREFIX}UI_TOKEN), or say --no-login where something else asks who they are"
        )
    # An interrupt ends the stack below as an exception that no `except Exception` holds up. Both have a handler, so that
    # the children, which inherit what is ignored, stop on them, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    configure_loggers(log_level="INFO")
    os.chdir(settings.root)
    os.environ.pop(f"{PREFIX}UI_TOKEN", None)  # runs and their code have no use for it
    try:
        with ExitStack() as stack:
            listening = stack.enter_context(_listen(serving.host, serving.port))
            instance = stack.enter_context(open_instance(settings))
            instance.optimize_for_webserver(STATEMENT_MILLISECONDS, POOL_RECYCLE_SECONDS, POOL_OVERFLOW)
            target = _target(settings, serving.workspace)
            daemon = None
            if serving.with_daemon:
                os.environ["DAGSTER_IS_DEV_CLI"] = "1"  # shorter texts of errors in definitions
                changes = Changes(settings)
                file = stack.enter_context(_code_server(instance, target, changes))
                target = WorkspaceFileTarget(paths=[str(file)])
                daemon = stack.enter_context(_daemon(file))
            context = stack.enter_context(
                WorkspaceProcessContext(
                    instance, target, version=__version__, read_only=serving.read_only, code_server_log_level="WARNING"
                )
            )
            app = create_app_from_workspace_process_context(context, live_data_poll_rate=POLL_MILLISECONDS)
            on_ready(_address(listening))
            return _run(guarded(app, settings, serving), listening, daemon)
    except KeyboardInterrupt:
        return None


def guarded(app: ASGIApp, settings: Settings, serving: Serving) -> Gate:
    """An application behind the gate that the settings ask for."""
    login = Login(settings.ui_token) if settings.ui_token else None
    return Gate(app, OwnNames(serving.host, settings.ui_hosts), login=login, read_only=serving.read_only)


def _run(app: ASGIApp, listening: socket.socket, daemon: subprocess.Popen[bytes] | None) -> str:
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", proxy_headers=False, server_header=False, timeout_graceful_shutdown=OPEN_SECONDS
        )
    )

    def watch(daemon: subprocess.Popen[bytes]) -> None:
        daemon.wait()
        server.should_exit = True

    if daemon:
        threading.Thread(target=watch, args=(daemon,), name="daemon-watch", daemon=True).start()
    server.run(sockets=[listening])  # after a signal it ends by raising that signal again
    return f"the daemon ended by itself with code {daemon.poll()}" if daemon else "the web server ended by itself"


def _listen(host: str, port: int) -> socket.socket:
    """The listening socket, taken before anything is started; browsers that come early wait."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"--host {host} --port {port}: {error.strerror}; choose another one") from None


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _target(settings: Settings, workspace: Path | None) -> WorkspaceLoadTarget:
    if workspace is not None and not workspace.is_file():
        raise SettingsError(f"--workspace {workspace}: the file does not exist")
    file = workspace or settings.path("workspace.yaml")
    if file.is_file():
        return WorkspaceFileTarget(paths=[str(file)])
    return ModuleTarget("definitions", attribute=None, working_directory=str(settings.root), location_name=None)


@contextmanager
def _code_server(instance: dg.DagsterInstance, target: WorkspaceLoadTarget, changes: Changes) -> Iterator[Path]:
    """One code server for web server and daemon, started again when it dies, and told of changes of the project; gives the
    workspace file that names it."""
    with ProxyServerManager(instance, target, "WARNING") as manager, tempfile.TemporaryDirectory() as folder:
        specs = [dict(spec) for spec in manager.get_code_server_specs()]
        file = Path(folder) / "workspace.yaml"
        file.write_text(yaml.safe_dump({"load_from": specs}))
        over = threading.Event()
        watching = threading.Thread(target=keep_up, args=(changes, partial(_reload, specs), over.wait), daemon=True)
        watching.start()
        try:
            yield file
        finally:
            over.set()


def _reload(specs: Sequence[Mapping[str, Any]]) -> None:
    for spec in specs:
        where = spec["grpc_server"]
        reload_at(host=where.get("host", "localhost"), port=where.get("port"), socket=where.get("socket"))


@contextmanager
def _daemon(workspace: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)])
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
