"""Read files that others made: regular ones only, so that no pipe, device or socket keeps a reader waiting or never ends."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BLOCK = 1 << 20


def open_regular(path: Path) -> FileIO:
    """Open a file for reading, unbuffered.

    What is opened is looked at before, because opening alone can set a device off, and again when it is open, because it may be
    another by then; nothing is waited for in between.

    Raises:
        OSError: it cannot be opened or is no regular file; ``strerror`` says which.
    """
    try:
        _check(path.stat(), path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError:  # a NUL in the path
        raise OSError(errno.EINVAL, "no file can be called so", str(path)) from None
    try:
        _check(os.fstat(descriptor), path)
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a file; of one with more than ``limit``, the first ``limit + 1``.

    Raises:
        OSError: as :func:`open_regular` does, or it cannot be read.
    """
    with open_regular(path) as file:
        blocks: list[bytes] = []
        left = limit + 1
        while left and (block := os.read(file.fileno(), min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)


def is_folder(path: Path) -> bool:
    """Whether there is a folder; not where that cannot be looked up, which :meth:`Path.is_dir` raises."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a regular file; not where that cannot be looked up."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _check(status: os.stat_result, path: Path) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file", str(path))
