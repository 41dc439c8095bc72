"""What the store needs from the place that it lies in, and what can be said of a version in terms of that.

Paths are relative to the store's root, with forward slashes.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from merge_assets.progress import Progress, ShouldStop
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import MANIFEST


class Backend(abc.ABC):
    """A place for versions: a local folder or an object store."""

    local: bool

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
    def manifests(self, path: str) -> Iterator[str]:
        """Paths of folders below ``path`` that hold a manifest; may name folders inside of versions too."""

    @abc.abstractmethod
    def draft(self) -> AbstractContextManager[Path]:
        """A fresh local folder from which :meth:`publish` is cheapest; removed at the end."""

    @abc.abstractmethod
    def publish(
        self, folder: Path, manifest: Manifest, *, progress: Progress | None, should_stop: ShouldStop | None
    ) -> Manifest:
        """Make the files of ``folder`` a version, unless another builder has; returns the manifest in force."""

    @abc.abstractmethod
    def write_pointers(self, files: Mapping[str, bytes]) -> None:
        """Write small files, each so that a reader sees all of it or what was there before."""

    def manifest(self, line: str, version: str) -> Manifest | None:
        """The manifest of a committed version; ``None`` if the version does not exist."""
        return Manifest.decode(self.read(f"{line}/{version}/{MANIFEST}"), line, version)

    def complete(self, line: str, version: str) -> Manifest | None:
        """Like :meth:`manifest`, but ``None`` also when a file is missing or has another size."""
        manifest = self.manifest(line, version)
        return None if manifest is None or size_problems(self, manifest) else manifest


def files_path(manifest: Manifest) -> str:
    """Path of the folder that holds a version's files."""
    return "/".join(part for part in (manifest.line, manifest.version, manifest.folder) if part)


def size_problems(backend: Backend, manifest: Manifest) -> dict[str, str]:
    """Files that are missing or have another size than the manifest says: name -> what is wrong."""
    present = backend.sizes(files_path(manifest))
    problems = {}
    for name, entry in manifest.files.items():
        if name not in present:
            problems[name] = "missing"
        elif present[name] != entry.size:
            problems[name] = f"{present[name]} bytes, {entry.size} in the manifest"
    return problems
