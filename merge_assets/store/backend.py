"""What the store needs from the place that it lies in, and what can be said of a version in terms of that.

Paths are relative to the store's root, with forward slashes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from merge_assets.errors import StoreError
from merge_assets.progress import Progress, ShouldStop
from merge_assets.store.building import Building
from merge_assets.store.drafts import keep_when_stopped
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import BUILDS, CURRENT, MANIFEST
from merge_assets.store.sealed import unseal


@dataclass(frozen=True)
class Listed:
    """A file as a listing shows it."""

    path: str
    size: int
    changed: datetime


class Backend(abc.ABC):
    """A place for versions: a local folder or an object store."""

    local: bool
    looks = 1
    """How often a listing is asked for that shows something wrong: one garbled on its way comes right the next time."""
    reuses = False
    """Whether pieces of versions can be copied into new ones."""

    @abc.abstractmethod
    def url(self, path: str) -> str:
        """Address of a path, without credentials."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes | None:
        """Content of a small file; ``None`` if there is none."""

    @abc.abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A file opened for reading."""

    @abc.abstractmethod
    def folders(self, path: str) -> list[str]:
        """Names of the folders directly below a path."""

    @abc.abstractmethod
    def sizes(self, path: str) -> dict[str, int]:
        """Every file below a path, relative to it, with its size in bytes."""

    @abc.abstractmethod
    def listed(self, path: str) -> list[Listed]:
        """Every file below a path, by its path from the root, with the place's own time of its last change."""

    def now(self) -> datetime:
        """The time by the clock that :meth:`listed` goes by."""
        return datetime.now(UTC)

    @abc.abstractmethod
    def manifests(self, path: str) -> Iterator[str]:
        """Paths of folders below ``path`` that hold a manifest; may name folders inside of versions too."""

    @abc.abstractmethod
    def draft(self) -> AbstractContextManager[Path]:
        """A fresh local folder from which :meth:`publish` is cheapest; removed at the end."""

    @abc.abstractmethod
    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        """The local folder of this name, as a builder that was killed or stopped has left it, or a fresh one."""

    @abc.abstractmethod
    def settle(self, name: str, manifest: Manifest) -> None:
        """Clear what builders of the :meth:`kept_draft` of this name have left who were killed when the version was there.

        Args:
            name: of the draft.
            manifest: of the version.
        """

    def keeps(self, error: BaseException) -> bool:
        """Whether a build that ended with this error can be gone on with."""
        return keep_when_stopped(error)

    def building(
        self,
        folder: Path,
        line: str,
        key: str,
        should_stop: ShouldStop | None,
    ) -> tuple[Building, Callable[..., Manifest]]:
        """Files of pieces in a draft, and what publishes the draft with its manifest."""
        building = Building(folder, self.locate, should_stop)
        return building, partial(self.publish, folder)

    def locate(self, path: str) -> Path:
        """Where a file of a local store lies."""
        raise StoreError(f"{self.url(path)}: is not a local file")

    @abc.abstractmethod
    def publish(
        self, folder: Path, manifest: Manifest, *, progress: Progress | None, should_stop: ShouldStop | None
    ) -> Manifest:
        """Make the files of ``folder`` a version, unless another builder has; returns the manifest in force."""

    @abc.abstractmethod
    def write_pointers(self, files: Mapping[str, bytes]) -> None:
        """Write small files, each so that a reader sees all of it or what was there before."""

    @abc.abstractmethod
    def remove_files(self, paths: Iterable[str]) -> None:
        """Remove files, those that are gone already included."""

    @abc.abstractmethod
    def withdraw(self, manifest: Manifest) -> str | None:
        """Make a version stop existing at once; its files stay for :meth:`restore` or :meth:`erase`.

        Returns:
            The folder of its files; ``None`` if it is its line's current version, or is gone or another by now, and
            nothing happened.
        """

    @abc.abstractmethod
    def restore(self, manifest: Manifest, folder: str) -> None:
        """Let a version that was withdrawn exist again, unless another builder has made it since."""

    @abc.abstractmethod
    def erase(self, manifest: Manifest, folder: str) -> None:
        """Remove the files of a version that was withdrawn."""

    def is_current(self, manifest: Manifest) -> bool:
        """Whether a version is its line's current one at this moment."""
        pointer = self.read_sealed(f"{manifest.line}/{CURRENT}")
        return pointer is not None and pointer.get("version") == manifest.version

    def read_sealed(self, path: str) -> dict[str, Any] | None:
        """Fields of a small sealed file; ``None`` if there is none or it is damaged."""
        return unseal(self.read(path))

    def manifest(self, line: str, version: str) -> Manifest | None:
        """The manifest of a committed version; ``None`` if the version does not exist."""
        return Manifest.of(self.read_sealed(f"{line}/{version}/{MANIFEST}"), line, version)

    def complete(self, line: str, version: str) -> Manifest | None:
        """Like :meth:`manifest`, but ``None`` also when a file is missing or has another size."""
        manifest = self.manifest(line, version)
        return None if manifest is None or size_problems(self, manifest) else manifest


def files_path(manifest: Manifest) -> str:
    """Path of the folder that holds a version's files."""
    if manifest.build:
        return f"{manifest.line}/{BUILDS}/{manifest.build}"
    return "/".join(part for part in (manifest.line, manifest.version, manifest.folder) if part)


def size_problems(backend: Backend, manifest: Manifest) -> dict[str, str]:
    """Files that are missing or have another size than the manifest says: name -> what is wrong."""
    problems: dict[str, str] = {}
    for _ in range(backend.looks):
        problems = wrong_sizes(backend.sizes(files_path(manifest)), manifest)
        if not problems:
            break
    return problems


def wrong_sizes(present: Mapping[str, int], manifest: Manifest) -> dict[str, str]:
    """Files that are not among those present, or with another size: name -> what is wrong."""
    return {
        name: f"{present[name]} bytes, {entry.size} in the manifest" if name in present else "missing"
        for name, entry in manifest.files.items()
        if present.get(name) != entry.size
    }
