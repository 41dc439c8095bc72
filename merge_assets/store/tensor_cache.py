"""Pieces of the object store on the local disk, by their digests, so that what several builds read comes here once."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from merge_assets.errors import StoreError
from merge_assets.store.artifact import Artifact
from merge_assets.store.backend import files_path
from merge_assets.store.fetching import LocalFile, fetch_into
from merge_assets.store.manifest import Piece
from merge_assets.store.s3 import S3Backend


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
        self.fetched = 0
        """Bytes that came from the object store."""

    def open(self, artifact: Artifact, file: str, piece: Piece) -> int:
        """A descriptor of a local file that holds exactly the bytes of a piece of a version in a bucket.

        Raises:
            StoreError: if they cannot be had as the digest says, or the disk is full.
        """
        backend, path = artifact.backend, f"{files_path(artifact.manifest)}/{file}"
        assert isinstance(backend, S3Backend)
        begin, end, sha256 = piece.begin, piece.end, piece.sha256
        target = self._folder / sha256[:2] / sha256
        with contextlib.suppress(OSError):
            held = os.open(target, os.O_RDONLY)
            if os.fstat(held).st_size == end - begin:
                os.utime(held)
                return held
            os.close(held)
        temporary = self._folder / f"tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _full(self._folder, error) from error
        try:
            if piece.size:
                os.posix_fallocate(held, 0, piece.size)  # filling a file with holes costs several times as much
            fetch_into(backend, path, begin, end, sha256, LocalFile(held), self._pool)
            temporary.replace(target)
        except BaseException as error:
            os.close(held)
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _full(self._folder, error) from error
            raise
        with self._lock:
            self.fetched += end - begin
            self._added += end - begin
            if self._added > self._limit // 8:
                self._added = 0
                self._evict()
        return held

    def _evict(self) -> None:
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


def _full(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{folder}: cannot be written: {error.strerror or error}; make room there, or set cache_dir elsewhere"
    )
