"""Files and folders of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from merge_assets.errors import StoreError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses (no space, no permission) into a message with the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def sync_tree(folder: Path) -> None:
    """Force every file and directory below ``folder``, and itself, to the disk."""
    for directory, _, names in os.walk(folder):
        for name in names:
            sync(Path(directory, name))
        sync(Path(directory))


def sync(path: Path) -> None:
    """Force a file, or the entries of one directory, to the disk."""
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def sizes_below(folder: Path) -> dict[str, int]:
    """Every file below a local folder, relative to it, with its size in bytes.

    Raises:
        StoreError: for links and special files, which a version cannot hold.
    """
    sizes = {}
    for directory, names, files in os.walk(folder):
        for name in [*files, *(name for name in names if Path(directory, name).is_symlink())]:
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file():
                raise StoreError(f"{path}: an artifact holds regular files only; write a copy instead of a link")
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes
