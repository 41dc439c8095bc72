"""Pieces of the object store on the local disk, by their digests.

A piece that is asked for a second time stays, for the builds to come. The first time it only passes through: most inputs are
read by one build, and keeping a gigabyte on the disk takes about as long as fetching it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from merge_assets.errors import StoreError
from merge_assets.store.artifact import Artifact
from merge_assets.store.fetching import LocalFile, fetch_into
from merge_assets.store.manifest import Piece
from merge_assets.store.place import Place

_SPARE = 256 << 20
"""Bytes of files that wait to be used again."""


class TensorCache:
    """A folder of pieces that stays below a size.

    Any number of processes may use one folder. A piece that is removed while it is read stays readable for who has it open.

    Args:
        folder: created when needed.
        limit: bytes; the pieces used longest ago go first.
        fetchers: requests at once.
    """

    def __init__(self, folder: Path, limit: int, fetchers: int = 6) -> None:
        self._folder = folder
        self._limit = limit
        self._pool = ThreadPoolExecutor(fetchers, "fetch")
        self._lock = threading.Lock()
        self._added = 0
        self._passing: dict[int, tuple[int, IO[bytes]]] = {}
        self._spare: dict[int, list[IO[bytes]]] = {}
        self._spared = 0
        self.fetched = 0
        """Bytes that came from the object store."""

    def open(self, artifact: Artifact, file: str, piece: Piece) -> int:
        """A descriptor of a local file that holds exactly the bytes of a piece of a version in a place that is not local.

        It is to be closed by :meth:`close`.

        Raises:
            StoreError: if they cannot be had as the digest says, or the disk is full.
        """
        place, path = artifact.place, artifact.at(file)
        target = self._folder / piece.digest[:2] / piece.digest
        try:
            held = self._find(target)
            if held is not None and os.fstat(held).st_size == piece.size:
                return held
            target.parent.mkdir(parents=True, exist_ok=True)
            if held is None:
                held = self._pass_through(place, path, piece)
                with contextlib.suppress(OSError):  # it may be another user's
                    target.touch(0o600)  # an empty file says that the piece was asked for
            else:
                os.close(held)
                held = self._keep(place, path, piece, target)
        except OSError as error:
            raise StoreError(
                f"{self._folder}: cannot be written: {error.strerror or error}; "
                "make room there, or set cache_dir elsewhere"
            ) from error
        with self._lock:
            self.fetched += piece.size
        return held

    def close(self, descriptor: int) -> None:
        """Take back what :meth:`open` gave."""
        with self._lock:
            if descriptor not in self._passing:
                os.close(descriptor)
                return
            size, file = self._passing.pop(descriptor)
            if self._spared + size <= _SPARE:
                self._spared += size
                self._spare.setdefault(size, []).append(file)
            else:
                file.close()

    def _find(self, target: Path) -> int | None:
        try:
            held = os.open(target, os.O_RDONLY)
        except OSError:  # it is not there, or another user's
            return None
        with contextlib.suppress(OSError):
            os.utime(held)
        return held

    def _pass_through(self, place: Place, path: str, piece: Piece) -> int:
        """A piece in a file without a name, which the next of its size is put into: fresh memory costs more than copying."""
        with self._lock:
            if spare := self._spare.get(piece.size):
                self._spared -= piece.size
                file = spare.pop()
            else:
                file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it stays open
            self._passing[file.fileno()] = piece.size, file
        try:
            self._fill(file.fileno(), place, path, piece)
        except BaseException:
            self.close(file.fileno())
            raise
        return file.fileno()

    def _keep(self, place: Place, path: str, piece: Piece, target: Path) -> int:
        temporary = self._folder / f"tmp-{os.getpid()}-{secrets.token_hex(4)}"
        held = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._fill(held, place, path, piece)
            temporary.replace(target)
            self._make_room(piece.size)
        except BaseException:
            os.close(held)
            temporary.unlink(missing_ok=True)
            raise
        return held

    def _fill(self, held: int, place: Place, path: str, piece: Piece) -> None:
        if os.fstat(held).st_size != piece.size:
            os.posix_fallocate(held, 0, piece.size)  # filling a file with holes costs several times as much
        fetch_into(place, path, piece.begin, piece.end, piece.digest, LocalFile(held), self._pool)

    def _make_room(self, added: int) -> None:
        with self._lock:
            self._added += added
            if self._added <= self._limit // 8:
                return
            self._added = 0
            entries = []
            for path in self._folder.glob("??/*"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    entries.append((status.st_mtime_ns, status.st_size, path))
            total = sum(size for _, size, _ in entries)
            for _, size, path in sorted(entries):
                if total <= self._limit * 7 // 8:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size
