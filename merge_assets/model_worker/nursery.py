"""The nursery's other side: it is started when first needed, and asked for workers.

Importing torch and transformers takes seconds. The nursery does it once for all workers of this process and of processes that
are forked from it, in a process that has one thread, which a fork needs; the workers share its memory.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from merge_assets.model_worker.limits import Limits

LARGEST_REQUEST = 1 << 16
_SECRET_WORDS = frozenset({"TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS", "KEY", "AUTH"})
_SECRET_PREFIXES = ("MERGE_ASSETS_", "AWS_", "DAGSTER_")
"""What the names of variables hold that a stranger's model has no business with."""

_OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TQDM_DISABLE": "1"}
_POLITE = {"OMP_WAIT_POLICY": "passive"}
"""Threads that wait for a core by spinning made a small model twenty times slower beside other work. Whoever set it, knows."""

_SECONDS_TO_END = 5

_lock = threading.Lock()
_nurseries: dict[bool, socket.socket] = {}


def prepare(*modules: str) -> None:
    """Start the nursery and have it import modules, without waiting for it."""
    with _lock:
        _request({"modules": modules}, [], offline=True)


def hire(
    modules: Sequence[str], limits: Limits, *, offline: bool, loopback: bool = False
) -> tuple[socket.socket, socket.socket]:
    """A new worker.

    Args:
        modules: what the nursery has to have imported.
        limits: the worker's.
        offline: whether it is kept off the network, with an environment without secrets.
        loopback: whether it then has a network of its own, which leads nowhere.

    Returns:
        The channel for requests, and the lease: the worker ends when it is closed, and what ended the worker is read from it.
    """
    walls = {"offline": offline, "loopback": loopback}
    request = {"modules": modules, "limits": asdict(limits), **walls, "folder": str(Path.cwd())}
    channel, its_channel = socket.socketpair()
    lease, its_lease = socket.socketpair()
    with its_channel, its_lease, _lock:
        _request(request, [its_channel.fileno(), its_lease.fileno()], offline=offline)
    return channel, lease


def _request(request: Mapping[str, Any], descriptors: list[int], *, offline: bool) -> None:
    data = json.dumps(request).encode()
    with contextlib.suppress(KeyError, BrokenPipeError, ConnectionResetError):
        socket.send_fds(_nurseries[offline], [data], descriptors)
        return
    _nurseries[offline] = _start(offline=offline)
    socket.send_fds(_nurseries[offline], [data], descriptors)


def _start(*, offline: bool) -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "merge_assets.model_worker", str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # without a terminal there is nobody to ask
            env=_POLITE | (without_secrets(os.environ) if offline else {**os.environ, **_QUIET, **_path()}),
        )
    atexit.register(_end, process, ours, os.getpid())
    return ours


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for what loads a model: without our secrets, and off the Hub."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_SECRET_PREFIXES) and _SECRET_WORDS.isdisjoint(name.upper().split("_"))
    }
    return kept | _OFFLINE | _QUIET | _path()


def _path() -> dict[str, str]:
    """Modules are looked for where this process does, which need not be the working directory: that may be a stranger's."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _end(process: subprocess.Popen[bytes], requests: socket.socket, owner: int) -> None:
    """It ends by itself once nobody can ask any more; waiting for it leaves no process behind this one."""
    requests.close()
    if os.getpid() == owner:
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
