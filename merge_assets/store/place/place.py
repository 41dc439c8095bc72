"""What the store needs from the place that it lies in.

All places have the operations of :class:`Place`. What some can do besides is asked for: ``tree``, ``objects`` and ``parts`` are
there or ``None``. A place has ``tree`` or ``objects``, for versions come into being by one of them.

Paths are relative to the store's root, with forward slashes. A file outside of it that the place can copy all the same
(:meth:`Parts.reached`) has its URL without the scheme for a path, as in ``//bucket/models/x/model.safetensors``. A place that
cannot be reached or written raises StoreError.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from merge_assets.errors import MergeAssetsError, StoreError
from merge_assets.filestate import changed_while_read
from merge_assets.store.place.watch import Watch
from merge_assets.store.place.workbench import Workbench

OUTSIDE = "//"
"""What the path of a file outside the store begins with."""


def written_over(url: str, path: str) -> MergeAssetsError:
    """The error of a file that changed before, or while, it was copied from.

    Args:
        url: of the file, for people.
        path: of the same.
    """
    if path.startswith(OUTSIDE):
        return changed_while_read(url)
    return StoreError(f"{url}: was written over while it was copied; build again")


@dataclass(frozen=True)
class Listed:
    """A file as a listing shows it."""

    path: str
    size: int
    changed: datetime


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was neither completed nor aborted."""

    path: str
    id: str
    begun: datetime


class Place(abc.ABC):
    """A place for files.

    Attributes:
        looks: how often is asked for what came wrong: what one garbled on its way comes right the next time.
        tree: its files are files of this machine.
        objects: its files are sent to it whole.
        parts: its files can be put together by the place, of parts that are sent and of bytes of its other files.
    """

    looks: int = 1
    tree: Tree | None = None
    objects: Objects | None = None
    parts: Parts | None = None

    @abc.abstractmethod
    def url(self, path: str) -> str:
        """Address of a path, without credentials."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes | None:
        """Content of a small file; ``None`` if there is none."""

    @abc.abstractmethod
    def read_range(self, path: str, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` of a file.

        Raises:
            StoreError: if the file is missing or ends before.
        """

    @abc.abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A file opened for reading."""

    @abc.abstractmethod
    def folders(self, path: str) -> list[str]:
        """Names of the folders directly below a path."""

    @abc.abstractmethod
    def listed(self, path: str) -> list[Listed]:
        """Every file below a path, by its path from the root, with the place's own time of its last change."""

    @abc.abstractmethod
    def write(self, files: Mapping[str, bytes]) -> None:
        """Write small files, each so that a reader sees all of it or what was there before."""

    @abc.abstractmethod
    def remove(self, paths: Iterable[str]) -> None:
        """Remove files, those that are gone already included."""

    @abc.abstractmethod
    def replace(self, path: str, before: bytes | None, after: bytes | None) -> bool:
        """Write a small file, or remove it, if it is what it is said to be; ``None`` is no file.

        Of several who see the same and write at once, one succeeds, wherever the place can do that (:attr:`Objects.exclusive`).
        Of two who remove and write, both may. What is written has to differ from all that others write.

        Returns:
            Whether it was done.
        """

    def now(self) -> datetime:
        """The time by the clock that :meth:`listed` goes by."""
        return datetime.now(UTC)

    def sizes(self, path: str) -> dict[str, int]:
        """Every file below a path, relative to it, with its size in bytes."""
        start = len(path) + 1 if path else 0
        return {entry.path[start:]: entry.size for entry in self.listed(path)}

    def holding(self, path: str, name: str) -> Iterator[str]:
        """Paths of folders below ``path`` that hold a file of this name; may leave out those inside of others."""
        for file in self.sizes(path):
            folder, _, last = file.rpartition("/")
            if last == name and folder:
                yield f"{path}/{folder}" if path else folder


class Tree(abc.ABC):
    """Files of this machine: folders are renamed into place, files get further names, bytes are copied in the kernel.

    Attributes:
        workbench: on the same file system.
    """

    workbench: Workbench

    @abc.abstractmethod
    def locate(self, path: str) -> Path:
        """Where a file or folder lies."""

    @abc.abstractmethod
    def freed(self, paths: Iterable[str]) -> int:
        """Bytes that removing these files gives back to the disk: files with names elsewhere keep theirs."""


class Objects(abc.ABC):
    """Files that appear whole, each by one request.

    Attributes:
        exclusive: whether of several who :meth:`create` one file at once all but one fail.
    """

    exclusive: bool

    @abc.abstractmethod
    def create(self, path: str, data: bytes) -> None:
        """Write a small file that must not exist.

        Raises:
            FileExistsError: if it does.
        """

    @abc.abstractmethod
    def send(self, source: Path, path: str, watch: Watch) -> None:
        """Copy one file from here."""

    @abc.abstractmethod
    def fetch(self, path: str, target: Path, watch: Watch) -> None:
        """Copy one file here.

        Raises:
            StoreError: if it is missing.
        """


class Parts(abc.ABC):
    """Files put together by the place, as S3 does: of parts that are sent, or that it copies from its other files.

    Attributes:
        largest_copy: bytes of a file that is copied in one request at most.
    """

    largest_copy: int

    @abc.abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file, ``None`` if there is none."""

    def tag(self, path: str) -> str | None:
        """What the place calls a file's content, another when the file is written over; ``None`` if it is not there, or the
        place has no such names."""
        return None

    def reached(self, other: Place, path: str) -> str | None:
        """The path by which a file of another place is copied here; ``None`` where this place cannot, or may not, reach it."""
        return None

    def refusal(self, source: str, tag: str, scratch: str) -> str:
        """Why the place does not copy out of a file, in words; empty if it does. A byte of it is copied to see, and removed.

        Args:
            source: the file.
            tag: of its content.
            scratch: where the byte goes; nothing is left there.

        Raises:
            InputError: the file lies outside the store, and its content is another one.
        """
        return "it copies nothing from outside"

    @abc.abstractmethod
    def copy(self, source: str, target: str, tag: str | None = None) -> None:
        """Copy a file of at most :attr:`largest_copy` bytes; the bytes do not come by here.

        Args:
            source: from where.
            target: to where.
            tag: what the content has to be called by the place; not every place looks.

        Raises:
            StoreError: if the source is missing, or is another one; InputError if that lies outside the store.
        """

    @abc.abstractmethod
    def begin(self, path: str) -> str:
        """Begin an upload in parts; returns its id."""

    @abc.abstractmethod
    def put_part(self, path: str, upload: str, number: int, data: bytes) -> str:
        """Send one part, from 1 on; returns the place's tag of it. What arrives is what was sent, or nothing."""

    @abc.abstractmethod
    def copy_part(
        self, path: str, upload: str, number: int, source: str, begin: int, end: int, tag: str | None = None
    ) -> str:
        """Make bytes of a file one part; they do not come by here. Returns the place's tag of the part.

        ``tag`` and errors as of :meth:`copy`.
        """

    @abc.abstractmethod
    def arrived(self, path: str, upload: str) -> dict[int, tuple[str, int]] | None:
        """Parts that an upload has: number -> (tag, bytes); ``None`` if there is no such upload."""

    @abc.abstractmethod
    def assemble(self, path: str, upload: str, tags: Sequence[str]) -> None:
        """Turn parts 1 to n, by their tags, into the file.

        Raises:
            FileNotFoundError: if there is no such upload, which may also be so once it was completed.
        """

    @abc.abstractmethod
    def abort(self, path: str, upload: str) -> None:
        """Remove an upload and its parts; nothing happens if it is gone."""

    @abc.abstractmethod
    def uploads(self, path: str) -> list[Upload]:
        """Uploads below ``path`` that were neither completed nor aborted."""

    def expiry(self, days: int, endpoint: str | None) -> tuple[dict[str, Any], str] | None:
        """A rule by which the place itself removes uploads that were left unfinished, and the command that sets it.

        ``None`` for a place that has no such rules.

        Args:
            days: after which it removes them.
            endpoint: URL of the place for the command, where its own settings do not say.
        """
        return None
