"""A version being written, until it is committed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from merge_assets.errors import StoreError
from merge_assets.records import Details, Input
from merge_assets.store.artifact import Artifact
from merge_assets.store.building import Building
from merge_assets.store.manifest import FileEntry
from merge_assets.store.names import check_file
from merge_assets.store.place import Watch
from merge_assets.store.place.disk import sizes_below
from merge_assets.store.transfer import hash_file, run_batch
from merge_assets.work import UNATTENDED, Work

_HASHERS = min(4, os.cpu_count() or 1)


class Draft:
    """A version being written.

    Attributes:
        line: where it will belong.
        directory: local folder to write into; gone after :meth:`commit`.
        started: when the work on it began.
    """

    def __init__(self, line: str, directory: Path, started: datetime, commit: Callable[..., Artifact]) -> None:
        self.line = line
        self.directory = directory
        self.started = started
        self._commit: Callable[..., Artifact] | None = commit

    def describe(self, digests: Mapping[str, str], work: Work) -> dict[str, FileEntry]:
        """Size and digest of every file; nothing may be written after this. See :func:`_describe`."""
        return _describe(self.directory, digests, {}, work)

    def close(self) -> None:
        """Nothing can be committed any more."""
        self._commit = None

    def commit(
        self,
        version: str,
        *,
        key: str,
        inputs: Sequence[Input],
        details: Details,
        digests: Mapping[str, str] | None = None,
        work: Work = UNATTENDED,
    ) -> Artifact:
        """Publish everything in :attr:`directory` as one version, or use the one that another builder published.

        Args:
            version: fingerprint of the content.
            key: digest of the inputs, by which :meth:`ArtifactStore.find` finds the version.
            inputs: what was read.
            details: kept in the manifest; plain JSON.
            digests: sha256 of files that the caller knows already, by relative name; the others are read.
            work: told bytes done, bytes in all, and a file name; once through for the digests and,
                for a remote store, once more for the upload.

        Returns:
            The committed version. Its manifest is another builder's if that one came first.

        Raises:
            StoreError: for a bad name, a link in the draft, a second commit, or a store that cannot be written.
            Stopped: on request; nothing is published.
        """
        if self._commit is None:
            raise StoreError(f"{self.line}: this draft is committed or closed; open another one")
        artifact = self._commit(
            self, version, key=key, inputs=inputs, details=details, digests=digests or {}, work=work
        )
        self._commit = None
        return artifact


class BuildDraft(Draft):
    """A draft with files of pieces, which :attr:`building` writes; other files are written beside them."""

    def __init__(
        self, line: str, directory: Path, started: datetime, commit: Callable[..., Artifact], building: Building
    ) -> None:
        super().__init__(line, directory, started, commit)
        self.building = building
        self._files: dict[str, FileEntry] | None = None

    def describe(self, digests: Mapping[str, str], work: Work) -> dict[str, FileEntry]:
        if self._files is None:
            self._files = _describe(self.directory, digests, self.building.entries(), work)
        return self._files


def _describe(
    folder: Path, digests: Mapping[str, str], entries: Mapping[str, FileEntry], work: Work
) -> dict[str, FileEntry]:
    """Size and digest of every file of a draft.

    Args:
        folder: the draft.
        digests: sha256 of files that need not be read.
        entries: files of pieces.
        work: told bytes; asked throughout.
    """
    sizes = {check_file(name): size for name, size in sizes_below(folder).items()}
    for name, digest in digests.items():
        if name not in sizes:
            raise StoreError(f"{folder / name}: a digest was given for a file that was not written")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise StoreError(f"{folder / name}: {digest!r} is not a sha256 in lower-case hex")
    found = dict(digests)

    def job(name: str) -> Callable[[Watch], None]:
        def run(watch: Watch) -> None:
            found[name] = hash_file(folder / name, watch)

        return run

    unknown = {name: job(name) for name in sizes if name not in digests and name not in entries}
    total = sum(sizes[name] for name in unknown)
    run_batch(unknown, total, workers=_HASHERS, work=work)
    return {name: entries.get(name) or FileEntry(size=size, sha256=found[name]) for name, size in sizes.items()}
