"""What of versions can be told by looking at the place that they lie in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from merge_assets.records import RecordFile
from merge_assets.sealed import seal, unseal
from merge_assets.store.manifest import Manifest, files_path
from merge_assets.store.names import CURRENT, MANIFEST
from merge_assets.store.place import Place

_T = TypeVar("_T")
_D = TypeVar("_D", bound=RecordFile)


def read_as(place: Place, path: str, decode: Callable[[bytes | None], _T | None]) -> _T | None:
    """What a small file says; ``None`` if there is none or it is damaged.

    Args:
        place: where it lies.
        path: of the file.
        decode: gives ``None`` for what is not as it was written.
    """
    for _ in range(place.looks):
        raw = place.read(path)
        found = decode(raw)
        if raw is None or found is not None:
            return found
    return None


class Pointer(RecordFile):
    """Which version of a line is meant.

    Attributes:
        version: its name.
    """

    version: str

    def sealed(self) -> bytes:
        return seal(self.model_dump())


def read_sealed(place: Place, path: str) -> dict[str, Any] | None:
    """Fields of a small sealed file; ``None`` if there is none or it is damaged."""
    return read_as(place, path, unseal)


def read_record(place: Place, path: str, kind: type[_D]) -> _D | None:
    """A small sealed record; ``None`` if there is none, or it is damaged or of another kind or format."""
    try:
        return kind.of(read_sealed(place, path))
    except ValueError:
        return None


def read_pointer(place: Place, path: str) -> str | None:
    """The version that a pointer names, whether or not there is one; ``None`` if it names none."""
    pointer = read_record(place, path, Pointer)
    return pointer.version if pointer else None


def read_manifest(place: Place, line: str, version: str) -> Manifest | None:
    """The manifest of a committed version; ``None`` if the version does not exist."""
    return Manifest.found(read_sealed(place, f"{line}/{version}/{MANIFEST}"), line, version)


def read_complete(place: Place, line: str, version: str) -> Manifest | None:
    """Like :func:`read_manifest`, but ``None`` also when a file is missing or has another size."""
    manifest = read_manifest(place, line, version)
    return None if manifest is None or size_problems(place, manifest) else manifest


def is_current(place: Place, manifest: Manifest) -> bool:
    """Whether a version is its line's current one at this moment."""
    return read_pointer(place, f"{manifest.line}/{CURRENT}") == manifest.version


def size_problems(place: Place, manifest: Manifest) -> dict[str, str]:
    """Files that are missing or have another size than the manifest says: name -> what is wrong."""
    problems: dict[str, str] = {}
    for _ in range(place.looks):
        problems = wrong_sizes(place.sizes(files_path(manifest)), manifest)
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
