"""Whatever fsspec has a file system for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from merge_assets.extras import not_installed
from merge_assets.store.place.hiding import plain
from merge_assets.store.place.place import Listed, Objects, Place
from merge_assets.store.place.retry import Attempts
from merge_assets.store.place.watch import Watch

_EXCLUSIVE = frozenset({"memory", "s3", "s3a"})
"""Protocols on which creating a file fails when it exists."""
_CREATE = threading.Lock()
"""The memory file system looks and writes in two steps; threads of one process take turns."""


class FsspecPlace(Place, Objects):
    """Files of an fsspec file system.

    Args:
        root: fsspec URL.
        options: arguments of the file system, credentials among them; shown nowhere.

    Raises:
        StoreError: if the URL's protocol is unknown or its package is not installed.
    """

    looks = 4

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        options = {str(name): plain(value) for name, value in options.items()}
        self._attempts = Attempts(root, options)
        try:
            self._fs, path = fsspec.core.url_to_fs(root, **options)
        except ImportError as error:
            raise not_installed(error) or self._attempts.error("opened", "", error) from None
        except (ValueError, TypeError, OSError) as error:
            raise self._attempts.error("opened", "", error) from None
        self._root = str(path).rstrip("/")
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self.exclusive = protocol in _EXCLUSIVE
        self.objects = self

    def url(self, path: str) -> str:
        return self._attempts.url(path)

    def read(self, path: str) -> bytes | None:
        try:
            return self._attempts.call("read", path, lambda: self._cat(path))
        except FileNotFoundError:
            return None

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        def get() -> bytes:
            data = self._cat(path, start=begin, end=end)
            if len(data) != end - begin:
                raise OSError(f"{len(data)} bytes came instead of {end - begin}")
            return data

        return self._attempts.must("read", path, get) if end > begin else b""

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self._attempts.must("opened", path, lambda: self._fs.open(self._at(path), "rb")))

    def folders(self, path: str) -> list[str]:
        entries = self._listing(path, lambda at: self._fs.ls(at, detail=True))
        names = (str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")
        return sorted(set(names))

    def listed(self, path: str) -> list[Listed]:
        start = len(self._root) + 1
        entries = self._listing(path, lambda at: list(self._fs.find(at, detail=True).values()))
        return [Listed(str(e["name"])[start:], int(e["size"]), _changed(e)) for e in entries]

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self._attempts.write(path, partial(self._fs.pipe_file, self._at(path), data))

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._attempts.call("removed", path, partial(self._fs.rm_file, self._at(path)))

    def create(self, path: str, data: bytes) -> None:
        def create() -> None:
            with _CREATE:
                self._fs.pipe_file(self._at(path), data, mode="create")

        def check_and_write() -> None:
            if self._fs.exists(self._at(path)):
                raise FileExistsError(path)
            self._fs.pipe_file(self._at(path), data)

        self._attempts.write(path, create if self.exclusive else check_and_write)

    def replace(self, path: str, before: bytes | None, after: bytes | None) -> bool:
        if before is None:
            try:
                self.create(path, after or b"")
            except FileExistsError:
                return self.read(path) == after  # the answer to an earlier attempt may have got lost
            return True
        if self.read(path) != before:
            return False
        if after is None:
            self.remove([path])
            return True
        return self._write_over(path, before, after)

    def _write_over(self, path: str, before: bytes, after: bytes) -> bool:
        """Write a file that was ``before`` a moment ago, if it still is."""
        with _CREATE:
            if self.read(path) != before:
                return False
            self.write({path: after})
        return True

    def send(self, source: Path, path: str, watch: Watch) -> None:
        def put() -> None:
            watch.value = 0
            self._fs.put_file(str(source), self._at(path), callback=watch)

        self._attempts.write(path, put)

    def fetch(self, path: str, target: Path, watch: Watch) -> None:
        def get() -> None:
            watch.value = 0
            self._fs.get_file(self._at(path), str(target), callback=watch)

        self._attempts.must("downloaded", path, get)

    def _cat(self, path: str, **options: Any) -> bytes:
        return cast(bytes, self._fs.cat_file(self._at(path), **options))

    def _listing(self, path: str, ask: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        def fresh() -> list[dict[str, Any]]:
            # A cached listing would hide what other processes have published, from reading as well.
            self._fs.invalidate_cache()
            try:
                return ask(self._at(path))
            finally:
                self._fs.invalidate_cache()

        try:
            return self._attempts.call("listed", path, fresh)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


def _changed(entry: Mapping[str, Any]) -> datetime:
    """When a file was changed last; every file system calls that something else. Now, where it does not say."""
    names = ("LastModified", "last_modified", "updated", "mtime", "created")
    value = next((entry[name] for name in names if entry.get(name) is not None), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, (int, float)):
        value = datetime.fromtimestamp(value, UTC)
    if not isinstance(value, datetime):
        return datetime.now(UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
