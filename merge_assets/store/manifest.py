"""The manifest: the file whose presence makes a version exist.

It lists every file of the version with its size and digest, so a reader can tell a complete version from
what a killed builder left behind.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, field_validator, model_validator

from merge_assets.digests import DIGEST, PATTERN
from merge_assets.errors import StoreError
from merge_assets.provenance import provenance
from merge_assets.records import Details, Input, Provenance, Record, RecordFile, parsed
from merge_assets.sealed import seal
from merge_assets.store.names import BUILDS, check_file, check_key, check_line, check_version

_D = TypeVar("_D", bound=Details)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


_PIECE = re.compile(r"(\d+)-(\d+) (" + PATTERN + r") ([0-9a-f]{64}|-) (.*)", re.DOTALL)


class Piece(NamedTuple):
    """A run of bytes of a file that is known by itself: a tensor, or what stands before the first one.

    Attributes:
        name: unique in its version; empty for what stands before the first tensor.
        begin: first byte in the file.
        end: one past the last byte.
        digest: of the bytes (:mod:`merge_assets.digests`), lower-case hex.
        key: digest of what the bytes were made from, empty if that is not known; equal keys mean equal bytes.
    """

    name: str
    begin: int
    end: int
    digest: str
    key: str = ""

    @property
    def size(self) -> int:
        return self.end - self.begin


def _piece_from_text(raw: object) -> object:
    match = _PIECE.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        return raw
    begin, end, digest, key, name = match.groups()
    return Piece(name, int(begin), int(end), digest, "" if key == "-" else key)


def _piece_to_text(piece: Piece) -> str:
    return f"{piece.begin}-{piece.end} {piece.digest} {piece.key or '-'} {piece.name}"


class FileEntry(Record):
    """One file of a version, known by the digest of its content or by those of its pieces, or by both."""

    size: int = Field(ge=0, description="bytes")
    sha256: Sha256 | None = Field(None, description="digest of the content, lower-case hex")
    tag: str | None = Field(None, description="what a bucket called the content when it was written: its ETag")
    pieces: tuple[Annotated[Piece, BeforeValidator(_piece_from_text), PlainSerializer(_piece_to_text)], ...] = Field(
        (), description="one after the other, the whole file"
    )

    @model_validator(mode="after")
    def _pieces_cover_the_file(self) -> Self:
        at = 0
        for piece in self.pieces:
            if piece.begin != at or piece.end < at:
                raise ValueError(f"pieces leave a hole or overlap at byte {at}")
            at = piece.end
        if self.pieces and at != self.size:
            raise ValueError(f"pieces end at byte {at} of {self.size}")
        if self.sha256 is None and not self.pieces:
            raise ValueError("neither a digest nor pieces")
        return self

    @property
    def digest(self) -> str:
        """What tells the content from any other: its SHA-256, or that of its pieces' digests in order.

        The second can be told of a file whose bytes were put together by the object store and never came by here.
        """
        if self.sha256 is not None:
            return self.sha256
        return hashlib.sha256("".join(f"{piece.size}:{piece.digest};" for piece in self.pieces).encode()).hexdigest()


class Manifest(RecordFile):
    """What a version holds, what it was built from, and by what."""

    line: str = Field(description="such as variants/slerp-7b")
    version: str = Field(description="fingerprint of the content, given by the builder")
    key: str = Field(description="digest of the inputs that it was built from")
    folder: str = Field("", description="subfolder that holds the files; empty when they lie beside the manifest")
    build: str = Field("", description="folder below the line's `builds` that holds the files instead")
    files: dict[str, FileEntry] = Field(description="relative name -> entry, the manifest itself not included")
    inputs: tuple[Input, ...] = Field(description="what was read")
    details: dict[str, Any] = Field(description="of the kind of version; see `described`")
    provenance: Provenance
    pieces: Literal["blake3-xxh3-1MiB"] = Field(DIGEST, description="what digests of pieces are")

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            _as_value_error(check_file, name)
        return files

    @field_validator("folder", "build")
    @classmethod
    def _folder_stays_inside(cls, folder: str) -> str:
        return _as_value_error(check_version, folder) if folder else folder

    @property
    def created(self) -> datetime:
        """When it was finished, UTC."""
        return self.provenance.ended

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name -> fingerprint of what was read."""
        return {item.name: item.fingerprint for item in self.inputs}

    @cached_property
    def common(self) -> Details:
        """Those of the details that every kind of version has."""
        return self.described(Details)

    def described(self, kind: type[_D]) -> _D:
        """The details, which are those of a kind of version.

        Raises:
            StoreError: if they are not.
        """
        try:
            return parsed(kind, self.details)
        except ValueError as error:
            raise StoreError(
                f"{self.line}/{self.version}: manifest.json: details.{error}; remove this version with "
                f"`merge-assets store rm '{self.line}@{self.version}'` and make it again"
            ) from None

    def encode(self) -> bytes:
        """The manifest as strict JSON."""
        files = {name: entry.model_dump(exclude_defaults=True) for name, entry in self.files.items()}
        return seal(self.model_dump(mode="json", exclude={"files"}) | {"files": files}, indent=1)

    @classmethod
    def found(cls, fields: Mapping[str, Any] | None, line: str, version: str) -> Manifest | None:
        """What was read back as a manifest; ``None`` unless it is a valid one of exactly this line and version."""
        try:
            manifest = cls.of(fields)
        except ValueError:
            return None
        return manifest if (manifest.line, manifest.version) == (line, version) else None


def new_manifest(
    line: str,
    version: str,
    *,
    key: str,
    files: Mapping[str, FileEntry],
    inputs: Sequence[Input],
    details: Details,
    started: datetime,
    build: str = "",
) -> Manifest:
    """A manifest of now, with every name checked.

    Args:
        started: when the work began.

    Raises:
        StoreError: for a name that could leave the store, or details that hold what JSON cannot: NaN, infinities, or objects
            of other types.
    """
    try:
        plain = json.loads(json.dumps(details.model_dump(mode="json"), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{line}/{version}: the details are not plain JSON ({error}); give strings, finite numbers, lists and mappings"
        ) from error
    return Manifest(
        line=check_line(line),
        version=check_version(version),
        key=check_key(key),
        files={name: files[name] for name in sorted(files)},
        inputs=tuple(inputs),
        details=plain,
        build=build,
        provenance=provenance(started),
    )


def files_path(manifest: Manifest) -> str:
    """Path of the folder that holds a version's files."""
    if manifest.build:
        return f"{manifest.line}/{BUILDS}/{manifest.build}"
    return "/".join(part for part in (manifest.line, manifest.version, manifest.folder) if part)


def _as_value_error(check: Callable[[str], str], name: str) -> str:
    try:
        return check(name)
    except StoreError as error:
        raise ValueError(str(error)) from error
