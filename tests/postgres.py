"""A real Postgres on loopback, as the deployment has it: an empty database, gone at the end.

Needs Debian's ``postgresql``. The server refuses to run as root, so root runs it as the user that Debian made. It ends with
the thread that started it, however that ends. Tests take the fixture ``postgres``, the URL for Dagster's storage.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import needs

PATIENCE = 120.0
"""Seconds that the server may take to come up."""


def programs() -> Path | None:
    """The folder of the newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def deployed_storage(url: str) -> dict[str, Any]:
    """What ``dagster.yaml`` says of its storage in the deployment, with this database."""
    file = Path(__file__).parents[1] / "deploy" / "dagster.yaml"
    storage: dict[str, Any] = yaml.safe_load(file.read_text())["storage"]
    storage["custom"]["config"]["postgres_url"] = url
    return storage


class Postgres:
    """A server with one empty database; runs while used as a context manager.

    Raises:
        RuntimeError: when the server does not come up, with what it said.
    """

    def __init__(self) -> None:
        found = programs()
        if found is None:
            needs.refuse("no Postgres on this machine; apt-get install --no-install-recommends postgresql")
        assert found is not None
        self._programs = found
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg2://dagster@127.0.0.1:{self._port}/dagster"

    def __enter__(self) -> Postgres:
        self._folder = Path(tempfile.mkdtemp(prefix="merge-assets-postgres-"))
        user: list[str | Path] = []
        if os.getuid() == 0:
            user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(self._folder, "postgres", "postgres")
        self._as_user = ["setpriv", *user, "--pdeathsig", "KILL"]
        make = [
            self._programs / "initdb",
            "--auth=trust",
            "--username=dagster",
            "--no-sync",
            "-D",
            self._folder / "data",
        ]
        try:
            subprocess.run([*self._as_user, *make], check=True, capture_output=True)
            self._launch()
            self._wait(["createdb", "dagster"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGQUIT)  # ends at once, connections or not
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server again; returns when it answers."""
        self._launch()
        self._wait(["psql", "-c", "select 1", "dagster"])

    def kill(self) -> None:
        """An outage: connections break, further ones are refused. What was committed stays."""
        self._end(signal.SIGQUIT)

    def _launch(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self._folder), "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *self._as_user,
                    self._programs / "postgres",
                    "-D",
                    self._folder / "data",
                    "-p",
                    str(self._port),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, asked: list[str]) -> None:
        assert self._server is not None
        program, *arguments = asked
        command = [self._programs / program, "-h", "127.0.0.1", "-p", str(self._port), "-U", "dagster", *arguments]
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(command, capture_output=True, check=False).returncode:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres does not come up:\n{(self._folder / 'log').read_text()[-3000:]}")
            time.sleep(0.1)

    def _end(self, how: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait()


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of an empty database of a server that runs meanwhile."""
    with Postgres() as server:
        yield server.url


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of an empty database, for one test."""
    with postgres_server() as url:
        yield url
