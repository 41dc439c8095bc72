"""Of all who want to make the same, one works, and the others wait and take what comes out.

Who works holds a *lease*: a small file, ``<line>/leases/<key>.json``, that says who it is and is written again every
:data:`EVERY` seconds with a higher number. It is created, written again and taken over only as what it was seen to be
(:meth:`Place.replace`), so that at most one holds it. It ends in one of these ways:

- it is removed when the work ends, well or not;
- a holder on this machine is dead, which is noticed at once;
- its number has not changed for :data:`EXPIRES` seconds of looking at it, by the clock of who looks. What machines call the
  time is not compared.

Who was paused for longer than that, and comes back, finds the lease another's: it stops, publishes nothing and waits like
everybody else.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from merge_assets.errors import Stopped, StoreError
from merge_assets.processes import began
from merge_assets.records import RecordFile
from merge_assets.sealed import seal, unseal
from merge_assets.store.place import Place
from merge_assets.work import Work

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two signs of life."""

EXPIRES = 60.0
"""Seconds without one after which a holder counts as dead."""

LOOK = 1.0
"""Seconds between two looks of who waits."""

_LONGEST_LOOK = 5.0
"""What one look may count for: who was paused, with the holder perhaps, has not looked."""

_ASK = 0.1


class Holder(RecordFile):
    """What a lease says.

    Attributes:
        host: name of the machine, for people.
        pid: process id there.
        started: when that process began, in the kernel's ticks; empty where that cannot be told.
        kernel: which run of which kernel the process is of, and in which of its namespaces.
        token: of this one lease.
        beat: how often it was written.
        since: when it was taken, by the holder's clock; for people.
        task: what the holder does.
    """

    host: str
    pid: int
    started: str
    kernel: str
    token: str
    beat: int
    since: datetime
    task: str

    @property
    def shown(self) -> str:
        """Who it is and what it does, for people."""
        return f"{self.host} pid {self.pid}, since {self.since:%H:%M:%S} UTC, {self.task}"

    def is_dead(self) -> bool:
        """Whether it is known to be dead, which only a process of the same kernel can know."""
        if self.kernel != _kernel():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            pass
        started = began(self.pid)
        return started is not None and started != self.started


def holder_of(raw: bytes | None) -> Holder | None:
    """Who a lease says that it is of; ``None`` if it is damaged, or there is none."""
    try:
        return Holder.of(unseal(raw))
    except ValueError:
        return None


@dataclass(frozen=True)
class Turn:
    """The right to work, as the worker sees it.

    Attributes:
        work: the caller's, which also ends when somebody else has taken over.
        confirm: called right before something is published; raises :class:`Stopped` if somebody else has taken over.
    """

    work: Work
    confirm: Callable[[], None]


def once(
    new: Callable[[], Lease], find: Callable[[], _T | None], make: Callable[[Turn], _T], work: Work
) -> tuple[_T, bool]:
    """See :meth:`ArtifactStore.once`; ``new`` makes the lease."""
    lease = new()
    while (found := find()) is None:
        if not lease.take():
            lease.wait(work)
            continue
        try:
            with lease.held(work) as turn:
                if (found := find()) is None:  # another may have finished a moment ago
                    return make(turn), True
        except Stopped:
            if work.should_stop() or not lease.lost:
                raise
            _LOG.warning("%s was taken over by another process while this one was paused; it is waited for", lease.task)
            lease = new()
    return found, False


class Lease:
    """One process's part in the turns at one thing.

    Args:
        place: where the file lies.
        path: of the file.
        task: what is going to be done, for people.
    """

    def __init__(self, place: Place, path: str, task: str) -> None:
        self.task = task
        self._place = place
        self._path = path
        self._own = Holder(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=began(os.getpid()) or "",
            kernel=_kernel(),
            token=secrets.token_hex(8),
            beat=0,
            since=datetime.now(UTC),
            task=task,
        )
        self._there: bytes | None = None
        self._quiet = 0.0
        self._looked = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another has taken over."""
        return self._lost.is_set()

    def take(self) -> bool:
        """Become the holder, unless somebody else is."""
        if not self._is_free():
            return False
        self._own = self._own.model_copy(update={"beat": 0, "since": datetime.now(UTC)})
        return self._write(self._there)

    def wait(self, work: Work) -> None:
        """Until it seems that it can be taken.

        Raises:
            Stopped: on request.
        """
        while not self._is_free():
            holder = holder_of(self._there)
            work.report(0, 0, f"waits for {holder.shown if holder else 'somebody who cannot be told'}")
            until = time.monotonic() + LOOK
            while time.monotonic() < until:
                work.check(f"waiting for {holder.shown}" if holder else "waiting")
                time.sleep(_ASK)

    @contextmanager
    def held(self, work: Work) -> Iterator[Turn]:
        """Give signs of life, and release it at the end. Call after :meth:`take`."""
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        try:
            yield Turn(replace(work, should_stop=lambda: work.should_stop() or self.lost), self.confirm)
        finally:
            self._ended.set()
            self._release()

    def confirm(self) -> None:
        """See that it is still held at this moment.

        Raises:
            Stopped: if another has taken over.
            StoreError: if that cannot be told.
        """
        self._renew()
        if self.lost:
            raise Stopped("another process has taken over")

    def _is_free(self) -> bool:
        there, now = self._place.read(self._path), time.monotonic()
        if there != self._there:
            self._there, self._quiet = there, 0.0
        else:
            self._quiet += min(now - self._looked, _LONGEST_LOOK)
        self._looked = now
        if there is None or self._quiet >= EXPIRES:
            return True
        holder = holder_of(there)
        return holder is not None and holder.is_dead()

    def _beat(self) -> None:
        while not (self._ended.wait(EVERY) or self.lost):
            try:
                self._renew()
            except StoreError as error:
                _LOG.warning("%s could not be written again: %s", self._place.url(self._path), error)

    def _renew(self) -> None:
        with self._lock:
            if self.lost or self._write(self._there):
                return
            there = self._place.read(self._path)
            holder = holder_of(there)
            ours = holder is not None and holder.token == self._own.token
            if not (ours and self._write(there)):  # nothing is there where who took over has finished
                self._lost.set()

    def _write(self, before: bytes | None) -> bool:
        own = self._own.model_copy(update={"beat": self._own.beat + 1})
        after = seal(own.model_dump(mode="json"))
        if not self._place.replace(self._path, before, after):
            return False
        self._own, self._there = own, after
        return True

    def _release(self) -> None:
        with self._lock:
            if self.lost:
                return
            try:
                self._place.replace(self._path, self._there, None)
            except StoreError as error:
                _LOG.warning("%s stays until it expires: %s", self._place.url(self._path), error)


def _kernel() -> str:
    """This run of this kernel, and the namespace in which process ids count."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return os.uname().nodename
