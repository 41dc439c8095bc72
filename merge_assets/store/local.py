"""The store in a local folder: versions appear by one rename."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from merge_assets.errors import StoreError
from merge_assets.progress import Progress, ShouldStop
from merge_assets.store.backend import Backend
from merge_assets.store.drafts import Drafts, keep_when_stopped, sync_directory, sync_tree, writing
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

    def manifests(self, path: str) -> Iterator[str]:
        top = self.root / path
        for directory, names, files in os.walk(top):
            if MANIFEST in files:
                names.clear()
                yield Path(directory).relative_to(self.root).as_posix()

    def draft(self) -> AbstractContextManager[Path]:
        return self._drafts.new()

    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        return self._drafts.kept(name, keep_when_stopped)

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

    def remove_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            with writing(self.root / path):
                (self.root / path).unlink(missing_ok=True)


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
