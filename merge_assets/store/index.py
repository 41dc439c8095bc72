"""Which version has a tensor key: ``<kind>/index.txt``, beside the lines that it is of.

The manifests are the truth, and the index is a short cut to the few that matter. Each look-up compares it with one listing: of
versions that are new, or whose manifest was written again, the manifest is read, and what is gone is left out. An index that is
lost or damaged is made anew. So whoever is killed while it is written, or writes at the same time as others, only makes the
next look-up read more. It holds a part of each key, and nothing is taken from a version whose manifest does not say the same.

Layout::

    sha256 of all that follows
    JSON: number of each version -> line, version, size of its manifest, when that was written
    a line for each key of each version, sorted: the beginning of the key, number of the version
"""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from merge_assets.errors import StoreError
from merge_assets.store.artifact import Artifact
from merge_assets.store.manifest import Manifest, files_path
from merge_assets.store.names import INDEX, MANIFEST, check_line, is_version
from merge_assets.store.place import Listed, Place
from merge_assets.store.planned import Origin
from merge_assets.store.versions import read_as, read_manifest, size_problems, wrong_sizes

_A = TypeVar("_A")
_B = TypeVar("_B")
Name = tuple[str, str]
"""Line and version."""

_LOG = logging.getLogger(__name__)
_READERS = 16
_KEPT = 16
_WIDTH = _KEPT + len(" 0000000\n")


@dataclass(frozen=True)
class _Entry:
    """A version that the index tells of; another manifest has another size or time."""

    line: str
    version: str
    size: int
    changed: str

    @property
    def name(self) -> Name:
        return self.line, self.version


@dataclass
class Index:
    """What one index file says.

    Attributes:
        entries: versions by number.
        records: a line for each key of each version, sorted.
    """

    entries: dict[int, _Entry] = field(default_factory=dict)
    records: bytes = b""

    @classmethod
    def decode(cls, raw: bytes | None) -> Index | None:
        """What was encoded; ``None`` if there is none, or it is not what was written."""
        digest, _, rest = (raw or b"").partition(b"\n")
        if digest != hashlib.sha256(rest).hexdigest().encode():
            return None
        head, _, records = rest.partition(b"\n")
        return cls({int(number): _Entry(*fields) for number, fields in json.loads(head).items()}, records)

    def encode(self) -> bytes:
        head = {number: [one.line, one.version, one.size, one.changed] for number, one in self.entries.items()}
        rest = json.dumps(head).encode() + b"\n" + self.records
        return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest

    def holders(self, key: str) -> Iterator[Name]:
        """Versions that may have a key: those that have one with the same beginning."""
        wanted = key[:_KEPT].encode()
        at = bisect_left(range(len(self.records) // _WIDTH), wanted, key=lambda at: self._record(at)[:_KEPT])
        while (record := self._record(at)).startswith(wanted + b" "):
            yield self.entries[int(record[_KEPT:])].name
            at += 1

    def drop(self, numbers: Collection[int]) -> None:
        """Leave versions out."""
        for number in numbers:
            del self.entries[number]
        gone = {b"%07d" % number for number in numbers}
        if gone:
            self.records = b"".join(r for r in self._split() if r[_KEPT + 1 : -1] not in gone)

    def add(self, manifests: Mapping[_Entry, Manifest]) -> None:
        """Take versions in."""
        if not manifests:
            return
        records = self._split()
        for number, (entry, manifest) in enumerate(manifests.items(), max(self.entries, default=0) + 1):
            self.entries[number] = entry
            keys = {p.key[:_KEPT] for file in manifest.files.values() for p in file.pieces if p.key}
            records += [b"%s %07d\n" % (key.encode(), number) for key in keys]
        self.records = b"".join(sorted(records))

    def _record(self, at: int) -> bytes:
        return self.records[at * _WIDTH : (at + 1) * _WIDTH]

    def _split(self) -> list[bytes]:
        return [self.records[at : at + _WIDTH] for at in range(0, len(self.records), _WIDTH)]


class _Listing:
    """What lies below a kind of lines, by one listing."""

    def __init__(self, place: Place, kind: str) -> None:
        self._place = place
        self._files: dict[str, int] = {}
        self.entries: dict[Name, _Entry] = {}
        for listed in place.listed(kind):
            self._files[listed.path] = listed.size
            if listed.path.endswith(f"/{MANIFEST}") and (entry := _entry(listed)):
                self.entries[entry.name] = entry

    def is_whole(self, manifest: Manifest) -> bool:
        """Whether all files of a version are there with their sizes."""
        folder = files_path(manifest)
        present = {name: self._files[path] for name in manifest.files if (path := f"{folder}/{name}") in self._files}
        # A listing that is garbled shows what is not so.
        return not wrong_sizes(present, manifest) or not size_problems(self._place, manifest)


def _entry(listed: Listed) -> _Entry | None:
    """The version whose manifest this file is, if it can be one."""
    line, _, version = listed.path.removesuffix(f"/{MANIFEST}").rpartition("/")
    try:
        return (
            _Entry(check_line(line), version, listed.size, listed.changed.isoformat()) if is_version(version) else None
        )
    except StoreError:
        return None


def find_origins(place: Place, keys: Collection[str], line: str) -> dict[str, Origin]:
    """Where finished pieces of these keys lie: key -> origin.

    They are taken from a line's own versions first, the newest before older ones, then from as few of its
    neighbours' as will do.

    Args:
        place: where the store lies.
        keys: what is looked for.
        line: such as ``variants/slerp-7b``; its neighbours are the other lines of ``variants``.
    """
    kind, wanted = line.partition("/")[0], frozenset(keys)
    listing = _Listing(place, kind)
    index, manifests = up_to_date(place, kind, listing)
    held: dict[Name, set[str]] = defaultdict(set)
    for key in wanted:
        for name in index.holders(key):
            held[name].add(key)
    claims: Mapping[Name, AbstractSet[str]] = held
    found: dict[str, Origin] = {}
    while claims:
        chosen = _cover(claims, line, listing)
        for here in _each(lambda name: _pieces(place, name, manifests.get(name), listing), chosen):
            found = {key: origin for key, origin in here.items() if key in wanted} | found
        # Of a version that turns out not to be whole, others may have the pieces.
        claims = _left({name: claimed for name, claimed in claims.items() if name not in chosen}, found.keys())
    return found


def _cover(claims: Mapping[Name, AbstractSet[str]], line: str, listing: _Listing) -> list[Name]:
    """Versions, the best first, which together have all keys that are claimed."""
    chosen = []
    while claims:
        best = max(claims, key=lambda n: (n[0] == line, n[0] != line and len(claims[n]), listing.entries[n].changed, n))
        chosen.append(best)
        claims = _left(claims, claims[best])
    return chosen


def _left(claims: Mapping[Name, AbstractSet[str]], keys: AbstractSet[str]) -> dict[Name, AbstractSet[str]]:
    return {name: left for name, claimed in claims.items() if (left := claimed - keys)}


def up_to_date(place: Place, kind: str, listing: _Listing) -> tuple[Index, dict[Name, Manifest]]:
    """The index of a kind of lines as the manifests are now, and the manifests that were read for it."""
    index = read_as(place, f"{kind}/{INDEX}", Index.decode) or Index()
    known = set(index.entries.values())
    there = set(listing.entries.values())
    new = sorted(there - known, key=lambda entry: (entry.changed, entry.name))
    read = dict(zip(new, _each(lambda entry: read_manifest(place, *entry.name), new), strict=True))
    found = {entry: manifest for entry, manifest in read.items() if manifest is not None}
    gone = [number for number, entry in index.entries.items() if entry not in there]
    index.drop(gone)
    index.add(found)
    if found or gone:
        try:
            place.write({f"{kind}/{INDEX}": index.encode()})
        except StoreError as error:  # who may only read has to read more
            _LOG.debug("the index is not kept: %s", error)
    return index, {entry.name: manifest for entry, manifest in found.items()}


def _pieces(place: Place, name: Name, manifest: Manifest | None, listing: _Listing) -> dict[str, Origin]:
    """Every piece of a version by its key, if the version is there and whole."""
    manifest = manifest or read_manifest(place, *name)
    if manifest is None or not listing.is_whole(manifest):
        return {}
    artifact = Artifact(*name, manifest, place)
    return {
        piece.key: artifact.origin(file, piece)
        for file, entry in manifest.files.items()
        for piece in entry.pieces
        if piece.key
    }


def _each(function: Callable[[_A], _B], items: Sequence[_A]) -> list[_B]:
    with ThreadPoolExecutor(_READERS, "index") as pool:
        return list(pool.map(function, items))
