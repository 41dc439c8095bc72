"""Work on many files at once: hashing, checking and copying, with progress, and stopped within a block."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

from merge_assets.digests import Hasher
from merge_assets.store.manifest import FileEntry
from merge_assets.store.place import Watch
from merge_assets.work import UNATTENDED, Work

_BLOCK = 4 << 20
_POLL_SECONDS = 0.1


def run_batch(
    jobs: Mapping[str, Callable[[Watch], None]], total: int, *, workers: int, work: Work = UNATTENDED
) -> None:
    """Run one job per file in threads; the first failure, a stop or an interrupt ends all of them.

    Args:
        jobs: label -> job; the job reports the bytes that it has done through its :class:`Watch`.
        total: bytes of all jobs together.
        workers: threads.
        work: told bytes done, ``total``, and the label of a job not finished yet; asked throughout.

    Raises:
        Stopped: on request; no thread is left running.
    """
    stop = threading.Event()
    ours = Work(should_stop=stop.is_set)
    watches = {label: Watch(ours) for label in jobs}
    pool = ThreadPoolExecutor(max_workers=max(1, min(workers, len(jobs))), thread_name_prefix="store")
    futures = {pool.submit(job, watches[label]): label for label, job in jobs.items()}
    try:
        pending = set(futures)
        while pending:
            work.check("reading and writing files")
            done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            moved = min(total, sum(int(watch.value) for watch in watches.values()))
            work.report(moved, total, next((futures[future] for future in pending), "done"))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def hash_file(path: Path, watch: Watch) -> str:
    """sha256 of a local file, lower-case hex."""
    with path.open("rb", buffering=0) as file:
        return _sha256(file, watch)


def what_is_wrong(file: BinaryIO, entry: FileEntry, watch: Watch) -> str | None:
    """Read an open file and compare it with its entry; what to say if it is not the same, else ``None``."""
    if entry.sha256 is not None:
        return None if _sha256(file, watch) == entry.sha256 else "its sha256 is not that of the manifest"
    for piece in entry.pieces:
        if _piece_digest(file, piece.size, watch) != piece.digest:
            name = piece.name or "the header"
            return f"{name} (bytes {piece.begin} to {piece.end}) is not what the manifest records"
    return "it is longer than in the manifest" if file.read(1) else None


def _sha256(file: BinaryIO, watch: Watch) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
        watch.relative_update(len(block))
    return digest.hexdigest()


def _piece_digest(file: BinaryIO, size: int, watch: Watch) -> str:
    """Digest of the next ``size`` bytes, or of what is left of them."""
    hasher = Hasher()
    while block := file.read(min(_BLOCK, size)):
        hasher.update(block)
        watch.relative_update(len(block))
        size -= len(block)
    return hasher.hexdigest()
