"""A local folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from merge_assets.errors import StoreError
from merge_assets.store.place.disk import sizes_below, writing
from merge_assets.store.place.place import Listed, Place, Tree
from merge_assets.store.place.workbench import DRAFTS, Workbench


class LocalPlace(Place, Tree):
    """Files below a local folder.

    Args:
        root: absolute; made when something is written.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.workbench = Workbench(root)
        self.tree = self

    def url(self, path: str) -> str:
        return str(self._root / path)

    def read(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.url(path)}: cannot be read: {error.strerror}") from error

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        with self.open(path) as file:
            file.seek(begin)
            data = file.read(end - begin)
        if len(data) != end - begin:
            raise StoreError(f"{self.url(path)}: ends {end - begin - len(data)} bytes early")
        return data

    def open(self, path: str) -> BinaryIO:
        try:
            return (self._root / path).open("rb")
        except OSError as error:
            raise StoreError(f"{self.url(path)}: cannot be read: {error.strerror}") from error

    def folders(self, path: str) -> list[str]:
        try:
            with os.scandir(self._root / path) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.url(path)}: cannot be listed: {error.strerror}") from error

    def sizes(self, path: str) -> dict[str, int]:
        return sizes_below(self._root / path)

    def listed(self, path: str) -> list[Listed]:
        found: list[Listed] = []
        start = len(str(self._root).rstrip("/")) + 1
        ahead = [str(self._root / path)]
        while ahead:
            with contextlib.suppress(OSError), os.scandir(ahead.pop()) as entries:  # it may vanish meanwhile
                for entry in entries:
                    if entry.is_dir():
                        if not entry.is_symlink() and entry.path[start:] != DRAFTS:
                            ahead.append(entry.path)
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        changed = datetime.fromtimestamp(status.st_mtime, UTC)
                        found.append(Listed(entry.path[start:], status.st_size, changed))
        return found

    def holding(self, path: str, name: str) -> Iterator[str]:
        for directory, names, files in os.walk(self._root / path):
            if name in files:
                names.clear()
                yield Path(directory).relative_to(self._root).as_posix()

    def write(self, files: Mapping[str, bytes]) -> None:
        with writing(self._root), self.workbench.lock():
            for path, data in files.items():
                self.workbench.write_file(self._root / path, data)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            with writing(self._root / path):
                (self._root / path).unlink(missing_ok=True)

    def replace(self, path: str, before: bytes | None, after: bytes | None) -> bool:
        target = self._root / path
        with writing(target), self.workbench.lock():
            if self.read(path) != before:
                return False
            if after is not None:
                self.workbench.write_file(target, after)
                return True
            target.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds something else
                target.parent.rmdir()
        return True

    def locate(self, path: str) -> Path:
        return self._root / path

    def freed(self, paths: Iterable[str]) -> int:
        names: dict[tuple[int, int], int] = {}
        freed = 0
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = (self._root / path).lstat()
                inode = status.st_dev, status.st_ino
                names[inode] = names.get(inode, 0) + 1
                if names[inode] == status.st_nlink:
                    freed += status.st_size
        return freed
