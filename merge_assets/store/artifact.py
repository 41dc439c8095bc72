"""A committed version, as readers hold it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from merge_assets.errors import DamageError, StoreError
from merge_assets.store.drafts import Drafts
from merge_assets.store.fetching import fetch_range
from merge_assets.store.manifest import Manifest, Piece, files_path
from merge_assets.store.names import MANIFEST
from merge_assets.store.place import Objects, Place, Watch
from merge_assets.store.place.disk import sync_tree
from merge_assets.store.place.locks import exclusive
from merge_assets.store.place.workbench import Workbench
from merge_assets.store.planned import Origin
from merge_assets.store.transfer import run_batch, what_is_wrong
from merge_assets.work import UNATTENDED, Work

_WORKERS = 4
_LOOKS = 4
"""How often a file is read before it counts as damaged: one cut short or garbled on its way comes right the next time."""


@dataclass(frozen=True)
class Artifact:
    """One immutable version of a line.

    Attributes:
        line: such as ``variants/slerp-7b``.
        version: fingerprint of the content.
        manifest: what it holds and what it was built from.
    """

    line: str
    version: str
    manifest: Manifest = field(repr=False)
    place: Place = field(repr=False, compare=False)

    @property
    def url(self) -> str:
        """Local path or URL of the folder that holds the files, without credentials."""
        return self.place.url(files_path(self.manifest))

    def at(self, name: str) -> str:
        """Path of a file in the place."""
        folder = files_path(self.manifest)
        return f"{folder}/{name}" if folder else name

    @property
    def in_bucket(self) -> bool:
        """Whether its pieces can be read one by one, and copied by the server."""
        return self.place.parts is not None

    @property
    def path(self) -> Path | None:
        """The folder itself where the store is local, else ``None``."""
        return None if self.place.tree is None else self.place.tree.locate(files_path(self.manifest))

    def directory(self, cache: Path, *, checked: Collection[str] = (), work: Work = UNATTENDED) -> Path:
        """A local folder with all files: the version itself, or a copy made once below ``cache``.

        A copy is checked against the digests of the manifest and appears whole or not at all. Any number
        of processes may ask at once; one of them downloads.

        Args:
            cache: folder for copies; unused where the store is local.
            checked: files that are compared with their digests as they lie in the folder now.
            work: told bytes done, bytes in all, and a file name; asked throughout.

        Raises:
            StoreError: if a file is missing or does not match its digest.
            Stopped: on request; nothing is left in ``cache``.
        """
        folder = self._directory(cache, work)
        for name in checked:
            try:
                with (folder / self._known(name)).open("rb") as file:
                    wrong = what_is_wrong(file, self.manifest.files[name], Watch(work))
            except FileNotFoundError:
                wrong = "it is missing"
            if wrong:
                raise DamageError(f"{folder / name}: {wrong}; {_REMEDY}")
        return folder

    def _directory(self, cache: Path, work: Work) -> Path:
        if self.path is not None:
            return self.path
        assert self.place.objects is not None
        digest = hashlib.sha256(self.manifest.encode()).hexdigest()[:12]
        target = self._copies(cache) / digest
        if target.is_dir():
            return target
        drafts = Drafts(Workbench(cache))
        with exclusive(target.with_name(f"{digest}.lock")):
            if target.is_dir():
                return target
            with drafts.new() as folder:
                self._download(self.place.objects, folder, work)
                (folder / MANIFEST).write_bytes(self.manifest.encode())
                sync_tree(folder)
                try:
                    folder.rename(target)
                except OSError as error:
                    if not target.is_dir():
                        raise StoreError(f"{target}: cannot be written: {error.strerror}") from error
        return target

    def forget_copies(self, cache: Path) -> None:
        """Remove what :meth:`directory` has copied below ``cache``."""
        if self.path is None:
            shutil.rmtree(self._copies(cache), ignore_errors=True)

    def _copies(self, cache: Path) -> Path:
        store = hashlib.sha256(self.place.url("").encode()).hexdigest()[:12]
        return cache / store / files_path(self.manifest)

    def read_bytes(self, name: str) -> bytes:
        """Content of one file, checked against its digest; for files that fit in memory.

        Raises:
            StoreError: if the version has no such file, or its bytes are not those of the manifest.
        """
        path = self.at(self._known(name))
        for _ in range(_LOOKS):
            data = self.place.read(path)
            if data is None:
                raise StoreError(f"{self.url}/{name}: is missing; build the version again")
            if hashlib.sha256(data).hexdigest() == self.manifest.files[name].sha256:
                return data
        raise DamageError(f"{self.url}/{name}: {_DAMAGED}")

    def read_piece(self, name: str, piece: Piece) -> bytes:
        """One piece of a file, checked against its digest; for pieces that fit in memory.

        Raises:
            DamageError: if its bytes are not those of the manifest.
        """
        path = self.at(name)
        return fetch_range(self.place, path, piece.begin, piece.end, piece.digest)

    def origin(self, name: str, piece: Piece) -> Origin:
        """A piece of this version, to be copied into another."""
        path = self.at(name)
        found = self.manifest.common
        return Origin(
            path,
            piece,
            self.manifest.files[name].pieces,
            self.manifest.files[name].tag,
            found.nonfinite.get(piece.name, 0),
            found.geometry.get(piece.name),
        )

    def open(self, name: str) -> BinaryIO:
        """One file opened for reading, seekable; its bytes are not checked.

        Raises:
            StoreError: if the version has no such file.
        """
        return self.place.open(self.at(self._known(name)))

    def _known(self, name: str) -> str:
        if name not in self.manifest.files:
            known = ", ".join(self.manifest.files) or "none"
            raise StoreError(f"{self.url}: has no file {name!r}; its files are: {known}")
        return name

    def _download(self, objects: Objects, folder: Path, work: Work) -> None:
        def job(name: str) -> Callable[[Watch], None]:
            def run(watch: Watch) -> None:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                for _ in range(_LOOKS):
                    objects.fetch(self.at(name), target, watch)
                    with target.open("rb") as file:
                        if what_is_wrong(file, self.manifest.files[name], watch.quiet()) is None:
                            return
                raise DamageError(f"{self.url}/{name}: {_DAMAGED}")

            return run

        jobs = {name: job(name) for name in self.manifest.files}
        run_batch(jobs, self.manifest.size, workers=_WORKERS, work=work)


_REMEDY = "run `merge-assets store verify`, which says how it is made anew"
_DAMAGED = f"its bytes are not those that the manifest records; {_REMEDY}"
