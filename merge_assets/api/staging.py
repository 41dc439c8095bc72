"""Where a merge into a folder is built: beside its target, hidden, until it takes the target's place in one step."""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from merge_assets.store.place.locks import locked_folder

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` to build in, removed at the end unless it took ``target``'s place.

    What merges into the same target left when they were killed is removed first. A living one holds a lock on its
    folder, which the kernel takes away however a process ends and which no later process of the same id can hold.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = _beside(target, "merging")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        # Against those who would take a folder that is not locked yet for a dead one's.
        with locked_folder(target.parent):
            _sweep(target)
            staging.mkdir()
            stack.enter_context(locked_folder(staging))
        yield staging


def _beside(target: Path, purpose: str) -> Path:
    return target.with_name(f".{target.name}.{purpose}-{os.getpid()}-{secrets.token_hex(4)}")


def _sweep(target: Path) -> None:
    """Remove what dead merges left beside ``target``; a complete model that one had moved aside is put back."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.(merging|replaced)-\d+-[0-9a-f]+")
    for left in [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]:
        with suppress(OSError), locked_folder(left, wait=False) as dead:  # gone already, or another user's
            if ".replaced-" in left.name and not target.exists():
                left.rename(target)
            elif dead:
                shutil.rmtree(left, ignore_errors=True)


def publish(staging: Path, target: Path) -> None:
    """Put a complete folder in its place; an earlier one takes the staging folder's, and is removed with it."""
    if not target.exists():
        staging.rename(target)
    elif not _exchange(staging, target):
        aside = _beside(target, "replaced")
        with locked_folder(target.parent):
            target.rename(aside)
            staging.rename(target)
            aside.rename(staging)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names in one step, so that neither name is ever missing; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, and not on every file system
    if renameat2 is None:
        return False
    swapped: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return swapped == 0
