"""The store in a local folder: versions appear by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from merge_assets.errors import StoreError
from merge_assets.progress import Progress, ShouldStop
from merge_assets.store.backend import Backend, Listed
from merge_assets.store.drafts import DRAFTS, TRASH, Drafts, is_locked, sync_directory, sync_tree, writing
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import MANIFEST


class LocalBackend(Backend):
    """Versions below a local folder; drafts lie beside them on the same file system.

    Args:
        root: absolute; created by the first draft.
    """

    local = True
    reuses = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._drafts = Drafts(root)

    def url(self, path: str) -> str:
        return str(self.root / path)

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.url(path)}: cannot be read: {error.strerror}") from error

    def open(self, path: str) -> BinaryIO:
        try:
            return (self.root / path).open("rb")
        except OSError as error:
            raise StoreError(f"{self.url(path)}: cannot be read: {error.strerror}") from error

    def folders(self, path: str) -> list[str]:
        try:
            with os.scandir(self.root / path) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.url(path)}: cannot be listed: {error.strerror}") from error

    def sizes(self, path: str) -> dict[str, int]:
        return local_sizes(self.root / path)

    def listed(self, path: str) -> list[Listed]:
        found = []
        for directory, names, files in os.walk(self.root / path):
            if Path(directory) == self.root:
                names[:] = [name for name in names if name != DRAFTS]
            for name in files:
                at = Path(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    status = at.lstat()
                    changed = datetime.fromtimestamp(status.st_mtime, UTC)
                    found.append(Listed(at.relative_to(self.root).as_posix(), status.st_size, changed))
        return found

    def manifests(self, path: str) -> Iterator[str]:
        top = self.root / path
        for directory, names, files in os.walk(top):
            if MANIFEST in files:
                names.clear()
                yield Path(directory).relative_to(self.root).as_posix()

    def draft(self) -> AbstractContextManager[Path]:
        return self._drafts.new()

    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        return self._drafts.kept(name, self.keeps)

    def settle(self, name: str, manifest: Manifest) -> None:
        with self._drafts.left(name):
            pass

    def locate(self, path: str) -> Path:
        return self.root / path

    def publish(
        self, folder: Path, manifest: Manifest, *, progress: Progress | None, should_stop: ShouldStop | None
    ) -> Manifest:
        target = self.root / manifest.line / manifest.version
        with writing(target):
            (folder / MANIFEST).write_bytes(manifest.encode())
            sync_tree(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target), self._drafts.lock():
            try:
                folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                present = self.complete(manifest.line, manifest.version)
                if present is not None:
                    return present
                self._drafts.trash(target)
                folder.rename(target)
            directory = target.parent
            while directory != self.root.parent:
                sync_directory(directory)
                directory = directory.parent
        return manifest

    def write_pointers(self, files: Mapping[str, bytes]) -> None:
        with writing(self.root), self._drafts.lock():
            for path, data in files.items():
                self._drafts.write_file(self.root / path, data)

    def withdraw(self, manifest: Manifest) -> str | None:
        grave = f"{DRAFTS}/{TRASH}{secrets.token_hex(4)}"
        with writing(self.root), self._drafts.lock():
            if self.is_current(manifest) or self.manifest(manifest.line, manifest.version) != manifest:
                return None
            (self.root / manifest.line / manifest.version).rename(self.root / grave)
        return grave

    def restore(self, manifest: Manifest, folder: str) -> None:
        with self._drafts.lock(), contextlib.suppress(OSError):  # it was made again, or swept by a builder
            (self.root / folder).rename(self.root / manifest.line / manifest.version)

    def erase(self, manifest: Manifest, folder: str) -> None:
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def drafts(self) -> dict[str, bool]:
        """Names of drafts below :data:`DRAFTS`, what is on its way out included, and whether somebody writes to them."""
        folder = self.root / DRAFTS
        if not folder.is_dir():
            return {}
        with writing(self.root), self._drafts.lock():  # nobody may take the probe of a lock for a builder
            return {path.name: _is_held(path) for path in folder.iterdir() if path.is_dir()}

    def remove_draft(self, name: str) -> None:
        """Remove a draft, unless somebody writes to it."""
        path = self.root / DRAFTS / name
        with writing(self.root), self._drafts.lock(), contextlib.suppress(FileNotFoundError):
            if not _is_held(path):
                self._drafts.trash(path)

    def freed(self, paths: Iterable[str]) -> int:
        """Bytes that removing these files gives back to the disk: files with names elsewhere keep theirs."""
        names: dict[tuple[int, int], int] = {}
        freed = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = (self.root / path).lstat()
                inode = status.st_dev, status.st_ino
                names[inode] = names.get(inode, 0) + 1
                if names[inode] == status.st_nlink:
                    freed += status.st_size
        return freed

    def remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            with writing(self.root / path):
                (self.root / path).unlink(missing_ok=True)


def _is_held(draft: Path) -> bool:
    try:
        return is_locked(draft)
    except FileNotFoundError:
        return False


def local_sizes(folder: Path) -> dict[str, int]:
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
