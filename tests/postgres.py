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


@contextmanager
def postgres_server() -> Iterator[str]:
    """URL of an empty database of a server that runs meanwhile.

    Raises:
        RuntimeError: when the server does not come up, with what it said.
    """
    found = programs()
    if found is None:
        needs.refuse("no Postgres on this machine; apt-get install --no-install-recommends postgresql")
    folder = Path(tempfile.mkdtemp(prefix="merge-assets-postgres-"))
    user: list[str | Path] = []
    if os.getuid() == 0:
        user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    as_user = ["setpriv", *user, "--pdeathsig", "KILL"]
    port = free_port()
    where = ["-h", "127.0.0.1", "-p", str(port), "-U", "dagster"]
    server: subprocess.Popen[bytes] | None = None
    try:
        make = [found / "initdb", "--auth=trust", "--username=dagster", "--no-sync", "-D", folder / "data"]
        subprocess.run([*as_user, *make], check=True, capture_output=True)
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*as_user, found / "postgres", "-D", folder / "data", "-p", str(port), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while subprocess.run([found / "createdb", *where, "dagster"], capture_output=True, check=False).returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres does not come up:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.1)
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/dagster"
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # ends at once, connections or not
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


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
