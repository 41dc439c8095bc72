"""Locks of the kernel on files and folders, which a process loses however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from merge_assets.work import Work

_POLL_SECONDS = 0.2


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock file against other processes and threads; yields ``False`` where the file system has no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(os.open(path, os.O_CREAT | os.O_RDWR, 0o666), wait=True) as locked:
        yield locked


@contextlib.contextmanager
def exclusive_unless_stopped(path: Path, work: Work) -> Iterator[None]:
    """Like :func:`exclusive`, for work that takes long: who waits can be stopped.

    Raises:
        Stopped: on request.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        while not _taken(held):
            work.check(f"waiting for {path}")
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        release(held)


def _taken(held: int) -> bool:
    """Whether nobody else holds the lock; also where the file system has no locks."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def locked_folder(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a folder itself; yields ``False`` where another process holds it or the file system has no locks."""
    with _held(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), wait=wait) as locked:
        yield locked


@contextlib.contextmanager
def _held(descriptor: int, *, wait: bool) -> Iterator[bool]:
    try:
        yield flock(descriptor, wait=wait)
    finally:
        release(descriptor)


def flock(held: int, *, wait: bool) -> bool:
    """True when the lock was taken; False when another holds it or the file system has no locks."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def release(held: int) -> None:
    """Unlock before closing: a forked child may hold a copy of the descriptor, which would keep the lock."""
    with contextlib.suppress(OSError):
        fcntl.flock(held, fcntl.LOCK_UN)
    os.close(held)
