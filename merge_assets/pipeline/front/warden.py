"""A command in two processes, of which each ends what the other leaves when it is killed.

The command itself runs in the second. The first waits for it and hands signals on. Both adopt the orphans below them, so that
whichever is left can find all that was started: code servers, the daemon, runs, their steps, also those that made themselves
independent of a terminal.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from merge_assets.errors import MergeAssetsError
from merge_assets.model_worker.confine import adopt_orphans

PATIENCE = 100.0
"""Seconds that processes have to end when they are asked to; longer than a run may take to stop."""

_LOOK_SECONDS = 0.1
_SLOW_SECONDS = 5.0


def watched(command: Callable[[], int]) -> int:
    """Run a command in a second process, and leave no process behind when it has ended, or one of the two was killed.

    Call it while there is one thread.

    Returns:
        What the command returns, or 128 and the number of the signal that killed it.

    Raises:
        MergeAssetsError: as the command.
    """
    first = os.getpid()
    others = _children(first)
    here, there = os.pipe()
    sys.stdout.flush()
    second = os.fork()
    adopt_orphans()
    if not second:
        os.close(here)
        _work(command, first, there)
    os.close(there)
    return _wait(second, here, others)


def _work(command: Callable[[], int], first: int, told: int) -> NoReturn:
    """The second process, which is the caller's twin and must never get back to it."""
    ended: int | MergeAssetsError = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C is for the first, which hands it on
        threading.Thread(target=_follow, args=(first,), name="warden", daemon=True).start()
        ended = command()
    except MergeAssetsError as error:
        ended = error
    except BaseException:
        traceback.print_exc()
    finally:
        end_all(PATIENCE)
        sys.stdout.flush()
        with suppress(OSError):
            os.write(told, pickle.dumps(ended))
        os._exit(0)


def end_all(patience: float, spared: Collection[int] = ()) -> None:
    """End every process below this one, but for some children: asked first, from above, as most take along what is below them;
    then killed.

    A code server that is asked waits for its runs, which are asked a little later.
    """
    until = time.monotonic() + patience
    asked: dict[int, float] = {}
    while children := _children(os.getpid()) - set(spared):
        now = time.monotonic()
        slow = {child for child in children if now - asked.get(child, now) > _SLOW_SECONDS}
        for one in children.union(*map(_children, slow)) - asked.keys():
            asked[one] = now
            _send(one, signal.SIGTERM)
        if now > until:
            for one in children.union(*map(_below, children)):
                _send(one, signal.SIGKILL)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
        time.sleep(_LOOK_SECONDS)


def _wait(second: int, heard: int, others: Collection[int]) -> int:
    before = {
        number: signal.signal(number, lambda number, _: _send(second, number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    _, status = os.waitpid(second, 0)
    end_all(PATIENCE, others)
    for number, handler in before.items():
        signal.signal(number, handler)
    with open(heard, "rb") as file:
        said = file.read()
    if not said:
        return 128 - os.waitstatus_to_exitcode(status)
    answer: int | MergeAssetsError = pickle.loads(said)  # of our own twin
    if isinstance(answer, MergeAssetsError):
        raise answer
    return answer


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
