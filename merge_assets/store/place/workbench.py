"""A hidden folder beside what it serves, on the same file system: what is made there appears elsewhere by one rename.

Layout of ``<folder>/.drafts``::

    .lock              held (flock) for the moments in which something appears or vanishes
    trash-<random>     a folder on its way out
    tmp-<random>       a small file about to be renamed into place
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from merge_assets.errors import StoreError
from merge_assets.store.place.disk import sync
from merge_assets.store.place.locks import exclusive

DRAFTS = ".drafts"
TRASH = "trash-"
TEMPORARY = "tmp-"


class Workbench:
    """The hidden folder of one local folder.

    Args:
        folder: what it serves.
        private: keep other users out, for folders in a shared temporary directory.

    Attributes:
        path: of the hidden folder, which is made when it is needed.
    """

    def __init__(self, folder: Path, *, private: bool = False) -> None:
        self.path = folder / DRAFTS
        self._private = private
        self._mode = 0o700 if private else 0o777

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold the folder for a moment, against other processes and threads; yields what :func:`exclusive` does."""
        self.path.mkdir(mode=self._mode, parents=True, exist_ok=True)
        if self._private and self.path.stat().st_uid != os.getuid():
            raise StoreError(f"{self.path} belongs to another user: remove it, or set TMPDIR to a folder of your own")
        with exclusive(self.path / ".lock") as locked:
            yield locked

    def grave(self) -> Path:
        """A fresh path for a folder on its way out."""
        return self.path / f"{TRASH}{secrets.token_hex(4)}"

    def trash(self, path: Path) -> None:
        """Take a directory out of sight at once and remove it; call under :meth:`lock`."""
        grave = self.grave()
        path.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def write_file(self, path: Path, data: bytes) -> None:
        """Write a small file so that readers see all of it or what was there before; call under :meth:`lock`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f"{TEMPORARY}{secrets.token_hex(4)}"
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
