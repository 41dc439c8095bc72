"""What was sent of a build, written down beside its parts: ``<line>/builds/<key>-<random>/progress.json``.

The file is written again every few seconds, so that its age tells whether its builder lives. Two builders that take the
same build for dead do no harm: equal keys mean equal bytes, so they send the same parts.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from merge_assets.errors import StoreError
from merge_assets.records import Record, RecordFile
from merge_assets.sealed import seal
from merge_assets.store.cutting import Stretch
from merge_assets.store.names import BUILDS
from merge_assets.store.place import Parts, Place
from merge_assets.store.versions import read_record

_LOG = logging.getLogger(__name__)
PROGRESS = "progress.json"
_EVERY = 5.0
_BEATS = 6
"""A file that nothing new is known of is written again after this many intervals."""

DEAD = timedelta(minutes=3)
"""A build whose progress is older than this has no builder any more."""


class ProgressOfFile(Record):
    """What was sent of one file.

    Attributes:
        upload: id of its upload in parts, empty if the server copies it whole.
        parts: begin and end of each, the file of the store that it is copied from, if it is, and where it begins there.
        whole: file of the store that is copied whole.
    """

    upload: str
    parts: tuple[tuple[int, int, str | None, int], ...]
    whole: str | None


class Progress(RecordFile):
    """What ``progress.json`` says.

    Attributes:
        key: of the version's inputs.
        pieces: digests of the pieces whose bytes are known, by name.
        flaws: what is wrong with these, where anything is.
        files: by name.
    """

    key: str
    pieces: Mapping[str, str]
    flaws: Mapping[str, int]
    files: Mapping[str, ProgressOfFile]


class OwnBuild:
    """The name of the build in the store that a draft's builders work on, kept beside the draft's content."""

    def __init__(self, folder: Path) -> None:
        self._path = folder.with_name("build")

    def read(self) -> str | None:
        return self._path.read_text() if self._path.exists() else None

    def write(self, build: str) -> None:
        """All of it or nothing: with half a name, what is in the store would be found again by nobody."""
        temporary = self._path.with_name("build.new")
        temporary.write_text(build)
        temporary.replace(self._path)


@dataclass
class SentFile:
    """One file of a build.

    Attributes:
        upload: id of its upload in parts, empty if the server copies it whole.
        parts: all of them, in order.
        whole: file of the store that is copied whole.
        tags: of the parts that the server has.
        complete: whether the parts were turned into the file.
    """

    upload: str
    parts: list[Stretch]
    whole: str | None = None
    tags: list[str | None] = field(default_factory=list)
    complete: bool = False

    def __post_init__(self) -> None:
        self.tags = self.tags or [None] * len(self.parts)

    def has(self, begin: int, end: int) -> bool:
        """Whether the server has all of these bytes."""
        touched = (
            tag for part, tag in zip(self.parts, self.tags, strict=True) if part.begin < end and part.end > begin
        )
        return self.whole is None and all(tag is not None for tag in touched)

    def take_over(self, place: Parts, path: str, size: int, sources: set[str]) -> bool:
        """Go on with what another attempt has sent; False if that cannot be, and then nothing is left of it."""
        if self.whole is not None:
            return self.whole in sources
        there = place.arrived(path, self.upload)
        if there is None:
            if place.size(path) != size:
                return False
            self.complete, self.tags = True, ["complete"] * len(self.parts)
            return True
        for number, part in enumerate(self.parts):
            tag, length = there.get(number + 1, ("", -1))
            self.tags[number] = tag if length == part.size else None
        missing = {part.source for part, tag in zip(self.parts, self.tags, strict=True) if tag is None} - {None}
        if missing <= sources and (self.parts[-1].end if self.parts else 0) == size:
            return True
        place.abort(path, self.upload)  # what it was to copy is gone
        return False


class Sent:
    """What was sent of one build.

    Attributes:
        folder: of the build, which will hold the version's files.
        files: by name.
        pieces: digests of the pieces whose bytes are known.
        flaws: what is wrong with these, where anything is.
        resumed: whether an earlier attempt began it.
    """

    def __init__(self, place: Place, parts: Parts, line: str, build: str, key: str) -> None:
        self.build = build
        self.folder = f"{line}/{BUILDS}/{build}"
        self.files: dict[str, SentFile] = {}
        self.pieces: dict[str, str] = {}
        self.flaws: dict[str, int] = {}
        self.resumed = False
        self._place = place
        self._parts = parts
        self._key = key
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="progress", daemon=True)

    @classmethod
    def find(cls, place: Place, parts: Parts, line: str, key: str, ours: str | None, *, alone: bool) -> Sent:
        """The progress of a build of this key whose builder is dead, or a fresh one.

        Args:
            place: where the build lies.
            parts: the same.
            line: where the version will belong.
            key: of the version's inputs.
            ours: a build whose builder is known to be dead, however young its progress is.
            alone: whether the builders of all are known to be dead, or to stop.
        """
        prefix = key[:16]
        found = {
            name.split("/")[-2]: entry.changed
            for entry in place.listed(f"{line}/{BUILDS}")
            if (name := entry.path).endswith(f"/{PROGRESS}") and name.split("/")[-2].startswith(f"{prefix}-")
        }
        now = place.now() if found else None
        dead = [
            build
            for build, changed in found.items()
            if alone or build == ours or (now is not None and now - changed > DEAD)
        ]
        for build in sorted(dead, key=lambda build: (build != ours, found[build])):
            sent = cls(place, parts, line, build, key)
            if sent._load():
                sent._abort_unknown()
                return sent
        return cls(place, parts, line, f"{prefix}-{secrets.token_hex(4)}", key)

    def touch(self) -> None:
        """There is something new to write down."""
        self._news.set()

    def save(self) -> None:
        """Write everything down now, and from now on every few seconds."""
        self._write()
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Write down what is new, as far as the store can be reached."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
            try:
                self._write()
            except StoreError as error:
                _LOG.warning("the progress of the build could not be kept: %s", error)

    def forget(self) -> None:
        """Remove the progress of a build that is finished."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._place.remove([f"{self.folder}/{PROGRESS}"])

    def discard(self) -> None:
        """Remove the build with all that was sent for it; the progress last, by which the rest would be found again."""
        own = {(f"{self.folder}/{name}", state.upload) for name, state in self.files.items() if state.upload}
        for path, upload in own | self._uploads():
            self._parts.abort(path, upload)
        self.remove_all_but(())
        self.forget()

    def remove_all_but(self, names: Collection[str]) -> None:
        """Remove the files that were sent for the build and are none of these."""
        known = {f"{self.folder}/{name}" for name in (*names, PROGRESS)}
        files = [entry.path for entry in self._place.listed(self.folder)]
        self._place.remove(path for path in files if path not in known)

    def _abort_unknown(self) -> None:
        """Abort uploads whose builder was killed before it wrote them down."""
        known = {state.upload for state in self.files.values()}
        for path, upload in self._uploads():
            if upload not in known:
                self._parts.abort(path, upload)

    def _uploads(self) -> set[tuple[str, str]]:
        """Path and id of uploads of the build that were neither completed nor aborted."""
        try:
            return {(upload.path, upload.id) for upload in self._parts.uploads(self.folder)}
        except StoreError as error:  # not everybody who may write may list uploads
            _LOG.warning("unfinished uploads below %s are not known: %s", self.folder, error)
            return set()

    def _beat(self) -> None:
        quiet = 0
        while not self._closed.wait(_EVERY):
            quiet += 1
            if self._news.is_set() or quiet >= _BEATS:
                self._news.clear()
                quiet = 0
                try:
                    self._write()
                except StoreError as error:
                    _LOG.warning("the progress of the build could not be kept: %s", error)

    def _write(self) -> None:
        files = {
            name: ProgressOfFile(
                upload=state.upload,
                whole=state.whole,
                parts=tuple((part.begin, part.end, part.source, part.offset) for part in state.parts),
            )
            for name, state in list(self.files.items())
        }
        progress = Progress(key=self._key, pieces=dict(self.pieces), flaws=dict(self.flaws), files=files)
        self._place.write({f"{self.folder}/{PROGRESS}": seal(progress.model_dump())})

    def _load(self) -> bool:
        progress = read_record(self._place, f"{self.folder}/{PROGRESS}", Progress)
        if progress is None or progress.key != self._key:
            return False
        self.pieces, self.flaws = dict(progress.pieces), dict(progress.flaws)
        for name, file in progress.files.items():
            self.files[name] = SentFile(file.upload, [Stretch(*part) for part in file.parts], file.whole)
        self.resumed = True
        return True
