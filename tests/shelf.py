"""A place that only tests have: files in this process's memory, put together of parts as S3 does it.

It stands in for a place that somebody adds: its one file, and its line in the list of places. Nothing else knows of it.
"""

from __future__ import annotations

import io
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from merge_assets.errors import StoreError
from merge_assets.store.place import Listed, Objects, Parts, Place, Upload, Watch
from merge_assets.store.place.factory import PLACES


class Board:
    """What lies at one address, for all who open it."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, datetime]] = {}
        self.uploads: dict[str, tuple[Upload, dict[int, bytes]]] = {}
        self.lock = threading.Lock()
        self.numbers = count(1)

    def put(self, path: str, data: bytes) -> None:
        self.files[path] = (data, datetime.now(UTC))


BOARDS: defaultdict[str, Board] = defaultdict(Board)
"""By URL."""


class Shelf(Place, Objects, Parts):
    """Files of a :class:`Board`."""

    largest_copy = 1 << 40
    exclusive = True

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self._root = root
        self._board = BOARDS[root]
        self.objects = self
        self.parts = self

    def url(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    def read(self, path: str) -> bytes | None:
        found = self._board.files.get(path)
        return None if found is None else found[0]

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        data = self._there(path)[begin:end]
        if len(data) != end - begin:
            raise StoreError(f"{self.url(path)}: ends early")
        return data

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self._there(path))

    def folders(self, path: str) -> list[str]:
        below = [entry.path.removeprefix(f"{path}/") for entry in self.listed(path)]
        return sorted({rest.partition("/")[0] for rest in below if "/" in rest})

    def listed(self, path: str) -> list[Listed]:
        start = f"{path}/" if path else ""
        files = dict(self._board.files)
        return [Listed(name, len(data), at) for name, (data, at) in files.items() if name.startswith(start)]

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self._board.put(path, data)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._board.files.pop(path, None)

    def replace(self, path: str, before: bytes | None, after: bytes | None) -> bool:
        with self._board.lock:
            if self.read(path) != before:
                return False
            if after is None:
                self.remove([path])
            else:
                self._board.put(path, after)
        return True

    def create(self, path: str, data: bytes) -> None:
        with self._board.lock:
            if path in self._board.files:
                raise FileExistsError(path)
            self._board.put(path, data)

    def send(self, source: Path, path: str, watch: Watch) -> None:
        data = source.read_bytes()
        watch.relative_update(len(data))
        self._board.put(path, data)

    def fetch(self, path: str, target: Path, watch: Watch) -> None:
        data = self._there(path)
        watch.absolute_update(len(data))
        target.write_bytes(data)

    def size(self, path: str) -> int | None:
        found = self.read(path)
        return None if found is None else len(found)

    def copy(self, source: str, target: str, tag: str | None = None) -> None:
        self._board.put(target, self._there(source))

    def begin(self, path: str) -> str:
        name = f"upload {next(self._board.numbers)}"
        self._board.uploads[name] = (Upload(path, name, datetime.now(UTC)), {})
        return name

    def put_part(self, path: str, upload: str, number: int, data: bytes) -> str:
        self._board.uploads[upload][1][number] = data
        return f"part {number}"

    def copy_part(
        self, path: str, upload: str, number: int, source: str, begin: int, end: int, tag: str | None = None
    ) -> str:
        return self.put_part(path, upload, number, self.read_range(source, begin, end))

    def arrived(self, path: str, upload: str) -> dict[int, tuple[str, int]] | None:
        found = self._board.uploads.get(upload)
        return None if found is None else {n: (f"part {n}", len(data)) for n, data in found[1].items()}

    def assemble(self, path: str, upload: str, tags: Sequence[str]) -> None:
        if upload not in self._board.uploads:
            raise FileNotFoundError(path)
        _, parts = self._board.uploads.pop(upload)
        assert list(tags) == [f"part {number}" for number in sorted(parts)]
        self._board.put(path, b"".join(parts[number] for number in sorted(parts)))

    def abort(self, path: str, upload: str) -> None:
        self._board.uploads.pop(upload, None)

    def uploads(self, path: str) -> list[Upload]:
        start = f"{path}/" if path else ""
        return [upload for upload, _ in list(self._board.uploads.values()) if upload.path.startswith(start)]

    def _there(self, path: str) -> bytes:
        data = self.read(path)
        if data is None:
            raise StoreError(f"{self.url(path)}: is missing")
        return data


PLACES["shelf"] = Shelf
