"""A command in two processes, of which each ends what the other leaves when it is killed.

The command itself runs in the second. The first waits for it and hands signals on. Both adopt the orphans below them, so that
whichever is left can find all that was started: code servers, the daemon, runs, their steps, also those that made themselves
independent of a terminal.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from merge_assets.model_worker.confine import adopt_orphans

PATIENCE = 100.0
"""Seconds that processes have to end when they are asked to; longer than a run may take to stop."""

_LOOK_SECONDS = 0.1
_SLOW_SECONDS = 5.0


@contextmanager
def watched() -> Iterator[None]:
    """Run the block in a second process, and leave no process behind when it has ended, or one of the two was killed.

    Call it while there is one thread. The first process never comes out of it: it ends with the code of the second.
    """
    first = os.getpid()
    second = os.fork()
    adopt_orphans()
    if second:
        _wait(second)
    os.setpgid(0, 0)  # Ctrl-C is for the first, which hands it on
    threading.Thread(target=_follow, args=(first,), name="warden", daemon=True).start()
    try:
        yield
    finally:
        end_all(PATIENCE)


def end_all(patience: float) -> None:
    """End every process below this one: asked first, from above, as most take along what is below them; then killed.

    A code server that is asked waits for its runs, which are asked a little later.
    """
    until = time.monotonic() + patience
    asked: dict[int, float] = {}
    while children := _children(os.getpid()):
        now = time.monotonic()
        slow = {child for child in children if now - asked.get(child, now) > _SLOW_SECONDS}
        for one in children.union(*map(_children, slow)) - asked.keys():
            asked[one] = now
            _send(one, signal.SIGTERM)
        if now > until:
            for one in _below(os.getpid()):
                _send(one, signal.SIGKILL)
        _reap()
        time.sleep(_LOOK_SECONDS)


def _wait(second: int) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _send(second, number))
    status = None
    while status is None:
        child, ended = os.wait()
        status = ended if child == second else None
    end_all(PATIENCE)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _follow(first: int) -> None:
    while os.getppid() == first:
        time.sleep(_LOOK_SECONDS)
    _send(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    end_all(0)
    os._exit(1)


def _children(process: int) -> set[int]:
    found: set[int] = set()
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(map(int, listing.read_text().split()))
    return found


def _below(process: int) -> set[int]:
    children = _children(process)
    return children.union(*map(_below, children))


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
