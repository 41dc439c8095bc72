"""What lies in a store, by one listing: versions, what points at them, what is being built, and what was left behind."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from merge_assets.errors import StoreError
from merge_assets.store.artifact import Artifact
from merge_assets.store.drafts import KEPT, Drafts
from merge_assets.store.lease import Holder, holder_of
from merge_assets.store.manifest import Manifest
from merge_assets.store.names import BUILDS, CLAIM, CURRENT, KEYS, LEASES, MANIFEST, check_line, is_version
from merge_assets.store.place import Listed, Place, Upload
from merge_assets.store.place.workbench import DRAFTS
from merge_assets.store.sent import DEAD, PROGRESS, Progress
from merge_assets.store.store import ArtifactStore
from merge_assets.store.versions import read_manifest, read_pointer, read_record

_A = TypeVar("_A")
_B = TypeVar("_B")
_LOG = logging.getLogger(__name__)
BUILD_PATH = re.compile(rf"(.+?)/{BUILDS}/([^/]+)/(.+)")
"""A file of a build in a bucket: its line, the name of the build, and the file."""

_READERS = 16
_ATTEMPT = re.compile(r"(.+)/(attempt-[0-9a-f]{8})/.+")
_KEY = re.compile(rf"(.+)/{KEYS}/([^/]+)\.json")
_LEASE = re.compile(rf"(.+)/{LEASES}/([^/]+)\.json")


@dataclass(frozen=True)
class StoredVersion:
    """A version and its files.

    Attributes:
        artifact: the version.
        changed: when its manifest was written, by the store's clock.
        files: all that is removed with it, the manifest included.
    """

    artifact: Artifact
    changed: datetime
    files: tuple[Listed, ...]

    @property
    def name(self) -> tuple[str, str]:
        """Line and version."""
        return self.artifact.line, self.artifact.version

    @property
    def size(self) -> int:
        """Bytes of its files, by the manifest."""
        return self.artifact.manifest.size

    @property
    def taken(self) -> int:
        """Bytes of all that is removed with it."""
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True)
class Unfinished:
    """What a builder writes or has left behind.

    Attributes:
        line: empty for a draft on the local disk, which does not tell.
        name: of its folder.
        begun: of all that is there, the oldest.
        changed: of all that is there, the youngest.
        alive: whether a builder works on it.
        resumable: whether the next build of the same goes on with it.
        files: of a bucket, what is there; of a local draft, its files by their paths below the root.
        uploads: in parts, neither completed nor aborted.
        sources: files of the store that it copies from; ``None`` if it is alive and does not tell.
    """

    line: str
    name: str
    begun: datetime
    changed: datetime
    alive: bool
    resumable: bool
    files: tuple[Listed, ...]
    uploads: tuple[Upload, ...] = ()
    sources: frozenset[str] | None = frozenset()

    @property
    def size(self) -> int:
        """Bytes of its files; parts of uploads are not counted."""
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True)
class Inventory:
    """Everything in a store that is of the store.

    Attributes:
        place: where it lies.
        now: when this was, by the store's clock.
        versions: of each line, oldest first.
        pointers: line -> the version that its ``current.json`` names, even if there is no such version.
        damaged: folders whose manifest is there and cannot be read, and ``current.json`` files that cannot.
        unfinished: what is being built, or was left behind by builders.
        keys: line and key -> their file, for keys that no version of the line has itself.
        leases: who works on which line.
        leftovers: files that nobody reads, such as the progress of a build that is finished.
        uploads: in parts, which belong to nothing else that is here.
    """

    place: Place
    now: datetime
    versions: Mapping[str, Sequence[StoredVersion]]
    pointers: Mapping[str, str]
    damaged: Sequence[str]
    unfinished: Sequence[Unfinished]
    keys: Mapping[tuple[str, str], Listed]
    leases: Sequence[tuple[str, Holder]]
    leftovers: Sequence[Listed]
    uploads: Sequence[Upload]

    @property
    def everything(self) -> list[StoredVersion]:
        """All versions of all lines."""
        return [stored for versions in self.versions.values() for stored in versions]

    @property
    def current(self) -> dict[str, StoredVersion]:
        """Line -> its current version, for lines that have one."""
        found = {stored.name: stored for stored in self.everything}
        return {line: found[line, name] for line, name in self.pointers.items() if (line, name) in found}

    def is_current(self, stored: StoredVersion) -> bool:
        """Whether a version is its line's current one."""
        return self.pointers.get(stored.artifact.line) == stored.artifact.version

    def occupied(self, files: Iterable[Listed]) -> int:
        """Bytes that removing these files would give back."""
        files = list(files)
        if self.place.tree is not None:
            return self.place.tree.freed(entry.path for entry in files)
        return sum(entry.size for entry in files)


def survey(store: ArtifactStore) -> Inventory:
    """Look at a whole store: one listing, and one small file for each version and each line.

    Raises:
        StoreError: if it cannot be reached.
    """
    place = store.place
    now = place.now()
    uploads = _uploads(place)
    files = {entry.path: entry for entry in place.listed("")}
    manifests, damaged = _manifests(place, files)
    sorter = _Sorter(manifests, damaged, remote=place.tree is None)
    for entry in files.values():
        sorter.put(entry)
    for upload in uploads:
        sorter.put_upload(upload)
    lines = sorted(sorter.pointers)
    pointers = dict(zip(lines, _each(lambda line: read_pointer(place, f"{line}/{CURRENT}"), lines), strict=True))
    unread = [f"{line}/{CURRENT}" for line, version in pointers.items() if version is None]
    versions: dict[str, list[StoredVersion]] = defaultdict(list)
    for (line, version), manifest in manifests.items():
        own = tuple(sorter.own[line, version])
        changed = files[f"{line}/{version}/{MANIFEST}"].changed
        versions[line].append(StoredVersion(Artifact(line, version, manifest, place), changed, own))
    known = {(manifest.line, manifest.key) for manifest in manifests.values()}
    young = [(line, entry) for line, entry in sorter.leases if now - entry.changed <= DEAD]
    holders = _each(lambda lease: (lease[0], holder_of(place.read(lease[1].path))), young)
    return Inventory(
        place=place,
        now=now,
        versions={
            line: sorted(own, key=lambda one: (one.artifact.manifest.created, one.artifact.version))
            for line, own in sorted(versions.items())
        },
        pointers={line: version for line, version in pointers.items() if version is not None},
        damaged=sorted([*damaged, *(path for path in unread if place.read(path) is not None)]),
        unfinished=[*sorter.unfinished(place, now), *_drafts(place)],
        keys={name: entry for name, entry in sorter.keys.items() if name not in known},
        leases=[(line, one) for line, one in holders if one is not None and not one.is_dead()],
        leftovers=[*sorter.leftovers, *(entry for line, entry in sorter.leases if (line, entry) not in young)],
        uploads=sorter.uploads,
    )


def version_of_key(inventory: Inventory, entry: Listed) -> str | None:
    """The version that the pointer of a key names, ``None`` if it names none."""
    return read_pointer(inventory.place, entry.path)


def _manifests(place: Place, files: Mapping[str, Listed]) -> tuple[dict[tuple[str, str], Manifest], frozenset[str]]:
    """Manifests by line and version, and folders whose manifest cannot be read."""
    names = []
    for path in files:
        folder, _, file = path.rpartition("/")
        line, _, version = folder.rpartition("/")
        if file == MANIFEST and is_version(version) and _is_line(line):
            names.append((line, version))
    found: dict[tuple[str, str], Manifest] = {}
    damaged = set()
    for (line, version), read in zip(names, _each(lambda name: read_manifest(place, *name), names), strict=True):
        if read is not None:
            found[line, version] = read
        elif place.read(f"{line}/{version}/{MANIFEST}") is not None:  # else it was removed just now
            damaged.add(f"{line}/{version}")
    # A file of a version may have the name of a manifest.
    folders = {"/".join(name) for name in found}
    found = {name: manifest for name, manifest in found.items() if not _outer("/".join(name), folders)}
    return found, frozenset(path for path in damaged if not _outer(path, folders))


class _Sorter:
    """Tells of every file what it belongs to. What is of no known kind is not the store's, and is left out."""

    def __init__(
        self, manifests: Mapping[tuple[str, str], Manifest], damaged: Collection[str], *, remote: bool
    ) -> None:
        self._manifests = manifests
        self._folders = {"/".join(name): name for name in manifests}
        self._builds = {(m.line, m.build): name for name, m in manifests.items() if m.build}
        self._damaged = damaged
        # Which builds are those of versions whose manifests cannot be read, nobody knows.
        self._doubtful = {path.rpartition("/")[0] for path in damaged}
        self._remote = remote
        self.own: dict[tuple[str, str], list[Listed]] = defaultdict(list)
        self.pointers: set[str] = set()
        self.keys: dict[tuple[str, str], Listed] = {}
        self.leases: list[tuple[str, Listed]] = []
        self.leftovers: list[Listed] = []
        self.uploads: list[Upload] = []
        self._loose: dict[str, Listed] = {}
        self._groups: dict[tuple[str, str], list[Listed]] = defaultdict(list)
        self._group_uploads: dict[tuple[str, str], list[Upload]] = defaultdict(list)

    def put(self, entry: Listed) -> None:
        path = entry.path
        if _outer(path, self._damaged):
            return
        if folder := _outer(path, self._folders):
            name = self._folders[folder]
            attempt = _ATTEMPT.fullmatch(path)
            if self._is_own(name, path[len(folder) + 1 :]):
                self.own[name].append(entry)
            elif self._remote and attempt:
                self._groups[folder, attempt[2]].append(entry)
            elif self._remote:
                self._groups[folder, ""].append(entry)
        elif (match := BUILD_PATH.fullmatch(path)) and _is_line(match[1]):
            self._put_build(entry, match[1], match[2], match[3])
        elif path.endswith(f"/{CURRENT}") and _is_line(line := path.rpartition("/")[0]):
            self.pointers.add(line)
        elif (match := _KEY.fullmatch(path)) and _is_line(match[1]) and is_version(match[2]):
            self.keys[match[1], match[2]] = entry
        elif (match := _LEASE.fullmatch(path)) and _is_line(match[1]):
            self.leases.append((match[1], entry))
        elif self._remote:
            self._loose[path] = entry

    def put_upload(self, upload: Upload) -> None:
        match = BUILD_PATH.fullmatch(upload.path)
        if match and (match[1], match[2]) not in self._builds and match[1] not in self._doubtful:
            self._group_uploads[match[1], match[2]].append(upload)
        elif not match or match[1] not in self._doubtful:
            self.uploads.append(upload)

    def unfinished(self, place: Place, now: datetime) -> list[Unfinished]:
        """What builders of a bucket write, or have left."""
        self._claimed()
        found = []
        for line, name in sorted(self._groups.keys() | self._group_uploads.keys()):
            files, uploads = self._groups[line, name], self._group_uploads[line, name]
            times = [entry.changed for entry in files] + [upload.begun for upload in uploads]
            progress = next((e.path for e in files if e.path == f"{line}/{BUILDS}/{name}/{PROGRESS}"), None)
            alive = now - max(times) <= DEAD
            sources = _sources(place, progress) if alive and progress else frozenset()
            entry = Unfinished(
                line, name, min(times), max(times), alive, progress is not None, tuple(files), tuple(uploads), sources
            )
            found.append(entry)
        return found

    def _is_own(self, name: tuple[str, str], rest: str) -> bool:
        manifest = self._manifests[name]
        if not self._remote or rest in (MANIFEST, CLAIM):
            return True
        if manifest.build:
            return False
        if manifest.folder:
            return rest.startswith(f"{manifest.folder}/")
        return rest in manifest.files or not _ATTEMPT.fullmatch(f"{'/'.join(name)}/{rest}")

    def _put_build(self, entry: Listed, line: str, name: str, rest: str) -> None:
        if (line, name) in self._builds:
            if rest == PROGRESS:
                self.leftovers.append(entry)
            else:
                self.own[self._builds[line, name]].append(entry)
        elif line not in self._doubtful:
            self._groups[line, name].append(entry)

    def _claimed(self) -> None:
        """Files that builders of whole versions have sent, whose manifest is not there."""
        claims = {path.rpartition("/")[0] for path in self._loose if path.endswith(f"/{CLAIM}")}
        claims = {folder for folder in claims if _is_line(folder.rpartition("/")[0])}
        for path, entry in self._loose.items():
            attempt = _ATTEMPT.fullmatch(path)
            folder = _outer(path, claims) or (attempt[1] if attempt else "")
            line, _, version = folder.rpartition("/")
            if is_version(version) and _is_line(line):
                self._groups[line, version].append(entry)


def _uploads(place: Place) -> list[Upload]:
    if place.parts is None:
        return []
    try:
        return place.parts.uploads("")
    except StoreError as error:  # who may only read may not list uploads
        _LOG.warning("uploads are not known: %s", error)
        return []


def _drafts(place: Place) -> list[Unfinished]:
    """Drafts beside the versions of a local store."""
    if place.tree is None:
        return []
    found = []
    drafts = Drafts(place.tree.workbench)
    for name, alive in sorted(drafts.states().items()):
        files = place.listed(f"{DRAFTS}/{name}")
        times = [entry.changed for entry in files] or [drafts.changed(name)]
        lock = next((entry.changed for entry in files if entry.path == f"{DRAFTS}/{name}/lock"), min(times))
        found.append(Unfinished("", name, lock, max(times), alive, name.startswith(KEPT), tuple(files)))
    return found


def _sources(place: Place, path: str) -> frozenset[str] | None:
    """Files that a build copies from, as its progress names them."""
    progress = read_record(place, path, Progress)
    if progress is None:
        return None
    sent = progress.files.values()
    parts = {source for file in sent for _, _, source, _ in file.parts}
    return frozenset(source for source in parts | {file.whole for file in sent} if source)


def _outer(path: str, folders: Collection[str]) -> str:
    """The folder, out of some, that a path lies in; empty if it lies in none."""
    at = path.find("/")
    while at >= 0:
        if path[:at] in folders:
            return path[:at]
        at = path.find("/", at + 1)
    return ""


def _is_line(text: str) -> bool:
    try:
        return bool(check_line(text))
    except StoreError:
        return False


def _each(function: Callable[[_A], _B], items: Sequence[_A]) -> list[_B]:
    with ThreadPoolExecutor(_READERS, "survey") as pool:
        return list(pool.map(function, items))
