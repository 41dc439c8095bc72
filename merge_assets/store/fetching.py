"""Bytes of a place that are right before anyone uses them.

A digest tells whether a piece arrived as it was written. Where it did not, or where there is no digest, bytes are read until
two readings agree: what garbles them on their way does not do so twice in the same manner.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from itertools import pairwise

from merge_assets.digests import BLOCK, Hasher, digest_of
from merge_assets.errors import DamageError
from merge_assets.store.place import Place

CHUNK = 4 << 20
"""Bytes of one request."""

_LOOKS = 10
_IN_ORDER = 4
"""Chunks of a piece that may be on their way, or wait for one before them, at once."""


class LocalFile:
    """An open local file that is filled from several threads; offsets are from its beginning."""

    def __init__(self, held: int) -> None:
        self._held = held

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._held, memoryview(data)[done:], offset + done)

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._held, count, offset)

    def digest(self) -> str:
        """Of all of it."""
        hasher, buffer = Hasher(), memoryview(bytearray(BLOCK))
        while count := os.preadv(self._held, [buffer], hasher.at):
            hasher.update(buffer[:count])
        return hasher.hexdigest()


def fetch_range(place: Place, path: str, begin: int, end: int, digest: str) -> bytes:
    """Bytes of a file that have a digest; for those that fit in memory.

    Raises:
        DamageError: if they never come as the digest says.
    """
    for _ in range(_LOOKS):
        data = place.read_range(path, begin, end)
        if digest_of(data) == digest:
            return data
    raise _damaged(place, path, begin, end)


def fetch_unknown(place: Place, path: str, begin: int, end: int) -> bytes:
    """Bytes of a file that no digest tells of.

    Raises:
        DamageError: if no two readings in a row are the same.
    """
    data = place.read_range(path, begin, end)
    for _ in range(_LOOKS):
        again = place.read_range(path, begin, end)
        if again == data:
            return data
        data = again
    raise _damaged(place, path, begin, end)


def fetch_into(
    place: Place,
    path: str,
    begin: int,
    end: int,
    digest: str,
    file: LocalFile,
    pool: Executor,
) -> None:
    """Bring a piece of any size, several chunks at once.

    Args:
        place: where from.
        path: the file.
        begin: first byte.
        end: one past the last byte.
        digest: of the bytes.
        file: where to.
        pool: for the chunks.

    Raises:
        DamageError: if the piece never comes as the digest says.
    """
    edges = [*range(begin, end, CHUNK), end]
    chunks = list(pairwise(edges))

    def bring(chunk: tuple[int, int]) -> bytes:
        data = place.read_range(path, *chunk)
        file.write(chunk[0] - begin, data)
        return data

    def bring_again(chunk: tuple[int, int]) -> bool:
        """Whether it came as the last time."""
        data = place.read_range(path, *chunk)
        same = file.read(chunk[0] - begin, len(data)) == data
        if not same:
            file.write(chunk[0] - begin, data)
        return same

    hasher = Hasher()
    coming: deque[Future[bytes]] = deque()
    try:
        for chunk in chunks:
            if len(coming) == _IN_ORDER:
                hasher.update(coming.popleft().result())
            coming.append(pool.submit(bring, chunk))
        while coming:
            hasher.update(coming.popleft().result())
    finally:  # nobody may write into the file when it is closed
        for future in coming:
            future.cancel()
        wait_for(coming)
    if hasher.hexdigest() == digest:
        return
    # One bad chunk in a large piece must not mean to read all of it until every chunk comes right in one go.
    doubtful = chunks
    for _ in range(_LOOKS):
        same = list(pool.map(bring_again, doubtful))
        if len(chunks) > 1:
            doubtful = [chunk for chunk, agreed in zip(doubtful, same, strict=True) if not agreed]
        if (not doubtful or len(chunks) == 1) and file.digest() == digest:
            return
        if not doubtful:
            break
    raise _damaged(place, path, begin, end)


def _damaged(place: Place, path: str, begin: int, end: int) -> DamageError:
    return DamageError(
        f"{place.url(path)}: bytes {begin} to {end} are not those that the manifest records; "
        "run `merge-assets store verify`, remove the version that it names and build it again"
    )
