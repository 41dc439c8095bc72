"""Bytes of an object store that are right before anyone uses them.

A digest tells whether a piece arrived as it was written. Where it did not, or where there is no digest, bytes are read until
two readings agree: what garbles them on their way does not do so twice in the same manner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise

from merge_assets.errors import StoreError
from merge_assets.store.s3 import S3Backend

CHUNK = 4 << 20
"""Bytes of one request."""

_LOOKS = 10


def fetch_range(backend: S3Backend, path: str, begin: int, end: int, sha256: str) -> bytes:
    """Bytes of a file that have a digest; for those that fit in memory.

    Raises:
        StoreError: if they never come as the digest says.
    """
    for _ in range(_LOOKS):
        data = backend.read_range(path, begin, end)
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    raise _damaged(backend, path, begin, end)


def fetch_unknown(backend: S3Backend, path: str, begin: int, end: int) -> bytes:
    """Bytes of a file that no digest tells of.

    Raises:
        StoreError: if no two readings in a row are the same.
    """
    data = backend.read_range(path, begin, end)
    for _ in range(_LOOKS):
        again = backend.read_range(path, begin, end)
        if again == data:
            return data
        data = again
    raise _damaged(backend, path, begin, end)


def fetch_into(
    backend: S3Backend,
    path: str,
    begin: int,
    end: int,
    sha256: str,
    write: Callable[[int, bytes], None],
    digest: Callable[[], str],
    pool: Executor,
) -> None:
    """Bring a piece of any size, several chunks at once.

    Args:
        backend: where from.
        path: the file.
        begin: first byte.
        end: one past the last byte.
        sha256: of the bytes.
        write: puts bytes at an offset from ``begin``; called from the pool's threads.
        digest: of all that was written.
        pool: for the chunks.

    Raises:
        StoreError: if the piece never comes as the digest says.
    """
    edges = [*range(begin, end, CHUNK), end]
    chunks = list(pairwise(edges))

    def bring(chunk: tuple[int, int]) -> str:
        data = backend.read_range(path, *chunk)
        write(chunk[0] - begin, data)
        return hashlib.blake2b(data, digest_size=16).hexdigest() if len(chunks) > 1 else ""

    seen: Sequence[str] = list(pool.map(bring, chunks))
    if digest() == sha256:
        return
    # One bad chunk in a large piece must not mean to read all of it until every chunk comes right in one go.
    doubtful = dict(zip(chunks, seen, strict=True))
    for _ in range(_LOOKS):
        again = dict(zip(doubtful, pool.map(bring, doubtful), strict=True))
        doubtful = {chunk: mark for chunk, mark in again.items() if len(chunks) == 1 or doubtful[chunk] != mark}
        if (not doubtful or len(chunks) == 1) and digest() == sha256:
            return
        if not doubtful:
            break
    raise _damaged(backend, path, begin, end)


def _damaged(backend: S3Backend, path: str, begin: int, end: int) -> StoreError:
    return StoreError(
        f"{backend.url(path)}: bytes {begin} to {end} are not those that the manifest records; "
        "run `merge-assets store verify`, remove the version that it names and build it again"
    )
