"""The guard: the process between who asked for a model worker and the worker. It watches, ends and says what ended.

It loads nothing, so nothing that the worker loads can keep it from its work. It looks at who asked, so that a worker which is
in a call that never returns ends with them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from merge_assets.model_worker.confine import UnconfinedError, adopt_orphans, confine, die_with
from merge_assets.model_worker.desk import refuse, serve
from merge_assets.model_worker.frames import send
from merge_assets.model_worker.limits import Limits

_EVERY = 50
"""Milliseconds between two looks."""


def keep(channel: socket.socket, lease: socket.socket, request: Mapping[str, Any], nursery: int) -> NoReturn:
    """Start a worker, and end with it.

    Args:
        channel: on which the worker gets requests.
        lease: closed by who asked when they have ended, or want the worker to end; told what ended the worker.
        request: the limits, whether it is offline, and the folder to work in.
        nursery: process id of the parent.
    """
    die_with(nursery)
    adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    limits = Limits(**request["limits"])
    most = limits.bytes_of_memory()
    guard = os.getpid()
    temporary = _folder()
    worker = os.fork()
    if worker == 0:
        lease.close()
        _work(channel, guard, limits, {**request, "temporary": temporary})
    channel.close()
    shared = _memory(guard)  # libraries, which all workers have in common
    ended = _watch(worker, lease, None if most is None else most + shared, most)
    with contextlib.suppress(OSError):
        send(lease, ended)
    end_all()
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
    os._exit(0)


def _folder() -> str | None:
    """For the worker's temporary files, which it cannot clear away when it is ended; ``None`` where none can be made."""
    try:
        return tempfile.mkdtemp(prefix="merge-assets-worker-")
    except OSError:
        return None


def _work(channel: socket.socket, guard: int, limits: Limits, request: Mapping[str, Any]) -> NoReturn:
    status = 1
    try:
        gc.enable()
        with contextlib.suppress(OSError):  # it may be gone, or another one's
            os.chdir(request["folder"])
        if request["temporary"] is not None:
            os.environ["TMPDIR"] = tempfile.tempdir = request["temporary"]
        confine(guard, offline=request["offline"], loopback=request["loopback"], unconfined=limits.unconfined)
        serve(channel)
        status = 0
    except UnconfinedError as error:
        refuse(channel, error)
    except OSError:  # nobody reads any more
        status = 0
    finally:
        os._exit(status)


def _watch(worker: int, lease: socket.socket, bound: int | None, told: int | None) -> dict[str, int | None]:
    """Until the worker has ended: what ended it. It has to stay within ``bound`` bytes, of which ``told`` are its own."""
    poll = select.poll()
    poll.register(lease, select.POLLIN)
    while True:
        left = poll.poll(_EVERY)
        used = _memory(worker)
        exceeded = bound is not None and used > bound
        if left or exceeded:
            os.kill(worker, signal.SIGKILL)
        done, status = os.waitpid(worker, 0 if left or exceeded else os.WNOHANG)
        if not done:
            continue
        if exceeded:
            return {"memory": told}
        code = os.waitstatus_to_exitcode(status)
        return {"signal": -code} if code < 0 else {"status": code}


def _memory(process: int) -> int:
    """Bytes that a process has for itself: those of files can be taken back by the kernel, and are not counted."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def end_all() -> None:
    """End what the worker started: as orphans they are children of this process."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        while children := listing.read_text().split():
            for child in map(int, children):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
