"""The manifest: the file whose presence makes a version exist.

It lists every file of the version with its size and digest, so a reader can tell a complete version from
what a killed builder left behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

import merge_assets
from merge_assets.errors import StoreError
from merge_assets.store.names import check_file, check_key, check_line, check_version

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(frozen=True)

    size: int = Field(ge=0, description="bytes")
    sha256: Sha256 = Field(description="digest of the content, lower-case hex")


class Manifest(BaseModel):
    """What a version holds, what it was built from, and by whom. Unknown fields are ignored on reading."""

    model_config = ConfigDict(frozen=True)

    line: str = Field(description="such as variants/slerp-7b")
    version: str = Field(description="fingerprint of the content, given by the builder")
    key: str = Field(description="digest of the inputs that it was built from")
    created: datetime = Field(description="UTC")
    folder: str = Field("", description="subfolder that holds the files; empty when they lie beside the manifest")
    files: dict[str, FileEntry] = Field(description="relative name -> entry, the manifest itself not included")
    inputs: dict[str, str] = Field(description="what was read -> its fingerprint")
    details: dict[str, Any] = Field(description="whatever the builder wants to keep with the version; plain JSON")
    merge_assets: str = Field(description="version of this package that wrote the files")

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            _as_value_error(check_file, name)
        return files

    @field_validator("folder")
    @classmethod
    def _folder_stays_inside(cls, folder: str) -> str:
        return _as_value_error(check_version, folder) if folder else folder

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())

    def encode(self) -> bytes:
        """The manifest as strict JSON.

        Raises:
            StoreError: if ``details`` holds what JSON cannot: NaN, infinities, or objects of other types.
        """
        fields = self.model_dump(exclude={"created"}) | {"created": self.created.isoformat()}
        try:
            return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"{self.line}/{self.version}: the details are not plain JSON ({error}); "
                "give strings, finite numbers, lists and mappings"
            ) from error

    @classmethod
    def decode(cls, raw: bytes | None, line: str, version: str) -> Manifest | None:
        """Read a manifest back; ``None`` unless it is a valid manifest of exactly this line and version."""
        if raw is None:
            return None
        try:
            manifest = cls.model_validate(json.loads(raw))
        except (ValidationError, ValueError, RecursionError):
            return None
        return manifest if (manifest.line, manifest.version) == (line, version) else None


def new_manifest(
    line: str,
    version: str,
    *,
    key: str,
    files: Mapping[str, FileEntry],
    inputs: Mapping[str, str],
    details: Mapping[str, Any],
) -> Manifest:
    """A manifest of now, with every name checked.

    Raises:
        StoreError: for a name that could leave the store.
    """
    return Manifest(
        line=check_line(line),
        version=check_version(version),
        key=check_key(key),
        created=datetime.now(UTC),
        files={name: files[name] for name in sorted(files)},
        inputs=dict(inputs),
        details=dict(details),
        merge_assets=merge_assets.__version__,
    )


def _as_value_error(check: Callable[[str], str], name: str) -> str:
    try:
        return check(name)
    except StoreError as error:
        raise ValueError(str(error)) from error
