"""Verbs of a model worker that behave as what a stranger's checkpoint could make it do."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any

from merge_assets.errors import EvaluationError
from merge_assets.model_worker import Desk

IMPORTED_BY = os.getpid()


def who(desk: Desk) -> dict[str, int]:
    return {"imported by": IMPORTED_BY, "process": os.getpid(), "guard": os.getppid(), "session": os.getsid(0)}


def keep(desk: Desk, *, value: Any) -> Any:
    """The value that was kept before."""
    before = desk.held.get("value")
    desk.held["value"] = value
    return before


def connect(desk: Desk, *, port: int) -> str:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


def local_sockets(desk: Desk) -> str:
    one, other = socket.socketpair()
    one.sendall(b"hello")
    return other.recv(5).decode()


def terminal(desk: Desk) -> list[str]:
    try:
        with open("/dev/tty"):
            tty = "opened"
    except OSError:
        tty = "none"
    return [sys.stdin.read(), tty]


def environment(desk: Desk) -> dict[str, str]:
    return dict(os.environ)


def folder(desk: Desk) -> str:
    return os.getcwd()  # noqa: PTH109


def litter(desk: Desk) -> str:
    """A temporary file that nobody clears away."""
    number, name = tempfile.mkstemp()
    os.close(number)
    return name


def fail(desk: Desk, *, own: bool) -> None:
    raise EvaluationError("suite.yaml: tasks[0]: no") if own else ValueError("no such layer")


def leave(desk: Desk) -> None:
    sys.exit(3)


def die(desk: Desk) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def spin(desk: Desk) -> None:
    """A call into C that does not return and lets no other thread run."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def take(desk: Desk, *, size: int) -> None:
    """So many bytes of memory, touched."""
    desk.held["bytes"] = [bytearray(os.urandom(1)) * (1 << 20) for _ in range(size >> 20)]
    signal.pause()


def write(desk: Desk, *, path: str, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def start(desk: Desk) -> int:
    """A process in a session of its own, which nobody waits for."""
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid


def tell(desk: Desk, *, times: int) -> str:
    for number in range(times):
        desk.report(number, times, "telling")
        desk.give(number)
    return "told"


def garble(desk: Desk, *, how: str) -> None:
    """What is no message."""
    body = {"deep": b"[" * 100_000 + b"]" * 100_000, "words": b"no JSON", "shape": json.dumps({"answers": 1}).encode()}
    if how == "size":
        desk.channel.sendall(b"\xff" * 8)
    else:
        desk.channel.sendall(len(body[how]).to_bytes(4, "big") + body[how])
    signal.pause()
