"""Folders in which versions are written before they exist.

Layout of a workbench, beside what it has itself::

    <boot>-<pid>-<random>/     one draft
    kept-<name>/               a draft that outlives its builder, for the next builder of that name to go on with
        lock                   held (flock) by its builder for as long as the builder lives
        content/               what the builder writes; published by one rename

A lock of the kernel, unlike a recorded process id, is released by death in every form, cannot be mistaken
after a process id is used again, and works between containers that share a kernel but not process ids.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from merge_assets.errors import Stopped
from merge_assets.store.place.disk import writing
from merge_assets.store.place.locks import flock, release
from merge_assets.store.place.workbench import TEMPORARY, TRASH, Workbench

CONTENT = "content"
"""Folder of a draft that the builder fills."""

KEPT = "kept-"
_KEPT_SECONDS = 7 * 86_400.0
"""How long the work of a dead builder waits for one that goes on with it."""

_QUIET_SECONDS = 86_400.0
"""A draft of another machine is dead only when unlocked and untouched for this long: some network file
systems keep locks to one machine, where a living builder elsewhere looks unlocked."""


class Drafts:
    """The drafts on one workbench.

    Args:
        workbench: made when the first draft is.
    """

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench
        self._folder = workbench.path
        self._lock = workbench.lock

    @contextlib.contextmanager
    def new(self) -> Iterator[Path]:
        """A fresh, empty folder, removed at the end unless it was renamed away. Sweeps dead drafts first."""
        with writing(self._folder), self._lock() as locked:
            dead = self._collect_dead() if locked else []
            draft, held = self._fresh(self._own_name())
        try:
            for path in dead:
                shutil.rmtree(path, ignore_errors=True)
            yield draft / CONTENT
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            release(held)

    @contextlib.contextmanager
    def kept(self, name: str, keep: Callable[[BaseException], bool]) -> Iterator[Path]:
        """The draft of this name, as its last builder left it; a fresh one if another builder works on that.

        Its folder for content is there, whatever the last builder had come to.

        Args:
            name: of the draft; letters and digits.
            keep: whether to leave the draft for another attempt after this error. It is left by those who are killed.

        Yields:
            The draft's content; files beside it are the builder's, but for ``lock``.
        """
        with writing(self._folder), self._lock() as locked:
            dead = self._collect_dead() if locked else []
            draft = self._folder / f"{KEPT}{name}"
            held = self._take(draft) if locked else None
            if held is None:
                taken = draft.exists()
                draft, held = self._fresh(self._own_name() if taken else draft.name)
            (draft / CONTENT).mkdir(exist_ok=True)
        try:
            for path in dead:
                shutil.rmtree(path, ignore_errors=True)
            yield draft / CONTENT
        except BaseException as error:
            if not keep(error):
                self._remove(draft)
            raise
        else:
            self._remove(draft)
        finally:
            release(held)

    @contextlib.contextmanager
    def left(self, name: str) -> Iterator[Path | None]:
        """The draft of this name that a dead builder has left, removed at the end; ``None`` if there is none.

        Dead drafts of any name are swept. Nobody else takes the draft up in the meantime.
        """
        if not self._folder.is_dir():
            yield None
            return
        draft = self._folder / f"{KEPT}{name}"
        with writing(self._folder), self._lock() as locked:
            dead = self._collect_dead() if locked else []
            held = self._take(draft) if locked else None
        try:
            for path in dead:
                shutil.rmtree(path, ignore_errors=True)
            yield None if held is None else draft / CONTENT
        finally:
            if held is not None:
                self._remove(draft)
                release(held)

    def _take(self, draft: Path) -> int | None:
        """The lock of a draft that is there and that nobody holds; ``None`` otherwise. Call under :meth:`Workbench.lock`."""
        if not draft.is_dir():
            return None
        held = os.open(draft / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        if not flock(held, wait=False):
            os.close(held)
            return None
        return held

    def _remove(self, draft: Path) -> None:
        """Remove a draft that others know the name of: all at once, so that nobody takes up half of it."""
        grave = self._workbench.grave()
        with contextlib.suppress(OSError), self._lock():
            draft.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _own_name(self) -> str:
        """Name of a draft that is of no use to others."""
        return f"{_boot()}-{os.getpid()}-{secrets.token_hex(4)}"

    def _fresh(self, name: str) -> tuple[Path, int]:
        """A new draft and the lock that is held on it."""
        draft = self._folder / name
        draft.mkdir()
        held = os.open(draft / "lock", os.O_CREAT | os.O_RDWR, 0o666)
        flock(held, wait=False)
        (draft / CONTENT).mkdir()
        return draft, held

    def states(self) -> dict[str, bool]:
        """Names of drafts, what is on its way out included, and whether somebody writes to them."""
        if not self._folder.is_dir():
            return {}
        with writing(self._folder.parent), self._lock():  # nobody may take the probe of a lock for a builder
            return {path.name: _is_held(path) for path in self._folder.iterdir() if path.is_dir()}

    def changed(self, name: str) -> datetime:
        """When files came into a draft's own folder, or went, the last time."""
        try:
            return datetime.fromtimestamp((self._folder / name).stat().st_mtime, UTC)
        except FileNotFoundError:  # swept by a builder just now
            return datetime.now(UTC)

    def remove(self, name: str) -> None:
        """Remove a draft, unless somebody writes to it."""
        path = self._folder / name
        with writing(self._folder.parent), self._lock(), contextlib.suppress(FileNotFoundError):
            if not _is_held(path):
                self._workbench.trash(path)

    def _collect_dead(self) -> list[Path]:
        """Move what dead processes left out of sight; under the lock nobody is half-way through a draft."""
        dead = []
        for path in self._folder.iterdir():
            if path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)
            elif path.name.startswith(TRASH):
                dead.append(path)
            elif path.is_dir():
                with contextlib.suppress(FileNotFoundError):  # its builder may be removing it at this moment
                    if _is_dead(path):
                        grave = self._workbench.grave()
                        path.rename(grave)
                        dead.append(grave)
        return dead


def keep_when_stopped(error: BaseException) -> bool:
    """Whether work is to be gone on with: it was stopped, nothing was wrong."""
    return isinstance(error, Stopped) or not isinstance(error, Exception)


def _is_locked(draft: Path) -> bool:
    """Whether a builder holds a draft, or the file system has no locks; call under :meth:`Workbench.lock`.

    Raises:
        OSError: if its lock is not there or cannot be opened.
    """
    held = os.open(draft / "lock", os.O_RDWR)
    try:
        return not flock(held, wait=False)
    finally:
        release(held)


def _is_held(draft: Path) -> bool:
    try:
        return _is_locked(draft)
    except FileNotFoundError:
        return False


def _is_dead(draft: Path) -> bool:
    try:
        if _is_locked(draft):
            return False
    except FileNotFoundError:
        return True
    except OSError:
        return False
    quiet = time.time() - _last_change(draft)
    if draft.name.startswith(KEPT):
        return quiet > _KEPT_SECONDS
    return draft.name.split("-")[0] == _boot() or quiet > _QUIET_SECONDS


def _last_change(folder: Path) -> float:
    newest = folder.stat().st_mtime
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, path.lstat().st_mtime)
    return newest


def _boot() -> str:
    """Short name of this run of this kernel; the same in all containers on it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return f"{zlib.crc32(os.uname().nodename.encode()):08x}"
