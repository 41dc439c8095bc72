"""Folders of other places than the store, read as its versions are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from merge_assets.errors import StoreError
from merge_assets.records import Details, Provenance
from merge_assets.store.artifact import Artifact
from merge_assets.store.manifest import FileEntry, Manifest
from merge_assets.store.place.factory import open_place


@dataclass(frozen=True)
class FileSigns:
    """What tells a file's bytes from others without reading them.

    Attributes:
        size: bytes.
        changed: when it was written, by the place's clock.
        tag: what the place calls its content; empty where it has no such names.
    """

    size: int
    changed: datetime
    tag: str

    @property
    def state(self) -> tuple[int | str, ...]:
        return self.size, self.changed.isoformat(), self.tag


class ForeignFolder:
    """A folder at a URL that no store wrote: its files whole or by ranges, and as readers hold a version.

    Args:
        url: of any place that a store may lie in.
        options: of the place.

    Attributes:
        files: sizes in bytes, by name.
        workers: how many files may be read at once.

    Raises:
        StoreError: there is nothing at the URL, or it cannot be listed.
    """

    workers = 8

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        scheme, _, rest = url.partition("://")
        netloc, _, path = rest.partition("/")
        root, self._path = f"{scheme}://{netloc}", path.strip("/")
        self._place = open_place(root, options)
        found = self._place.listed(self._path)
        start = len(self._path) + 1 if self._path else 0
        self._listed = {entry.path[start:]: entry for entry in found}
        self.files: Mapping[str, int] = {name: entry.size for name, entry in self._listed.items()}
        if not self.files:
            raise StoreError(
                f"{self.location}: there are no files; correct the URL, or upload the model there (or let this user list it)"
            )
        self._whole: dict[str, bytes] = {}

    @property
    def location(self) -> str:
        """The URL without credentials."""
        return self._place.url(self._path)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes ``begin`` to ``end`` of a file; files that are read to their end are small and kept.

        Raises:
            StoreError: they cannot be had.
        """
        if end is not None:
            return self._place.read_range(self._at(name), begin, end)
        if name not in self._whole:
            data = self._place.read(self._at(name))
            if data is None:
                raise StoreError(f"{name}: is gone since {self.location} was listed; run the command again")
            self._whole[name] = data
        return self._whole[name][begin:]

    def version(self, fingerprint: str, files: Mapping[str, FileEntry], nonfinite: Mapping[str, int]) -> Artifact:
        """The files, whose digests are known, as readers hold a version of a store.

        Args:
            fingerprint: of the model.
            files: by name.
            nonfinite: NaN and infinite elements by tensor, where there are any.
        """
        newest = max(entry.changed for entry in self._listed.values())
        made = Provenance(merge_assets="", command="", host="", started=newest, ended=newest)
        manifest = Manifest(
            line=self._path,
            version="",
            key=fingerprint,
            files=dict(files),
            inputs=(),
            details=Details(nonfinite=nonfinite).model_dump(mode="json"),
            provenance=made,
        )
        return Artifact(self._path, fingerprint, manifest, self._place)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name

    def signs(self, name: str) -> FileSigns:
        """What tells a file's bytes from others, as they are now."""
        parts, entry = self._place.parts, self._listed[name]
        return FileSigns(entry.size, entry.changed, (parts.tag(self._at(name)) if parts else None) or "")
