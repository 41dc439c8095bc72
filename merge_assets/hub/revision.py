"""A model on the Hub at one commit: its files by name, size and digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from merge_assets.records import Input


@dataclass(frozen=True)
class HubFile:
    """One file of a commit.

    Attributes:
        size: bytes.
        sha256: of the content, where the Hub keeps the file in large-file storage; weights always are.
        blob_id: git object id of the file, or of its pointer.
    """

    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True)
class HubRevision:
    """A model reference resolved to a commit.

    Attributes:
        repo: ``org/name``.
        commit: the full commit id.
        files: name -> file, every file of the commit.
        license: as the model's card says.
        gated: whether people have to agree to terms before they may download it.
        base_models: what the card says that it was made from.
    """

    repo: str
    commit: str
    files: Mapping[str, HubFile]
    license: str | None = None
    gated: bool = False
    base_models: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """fsspec URL of the commit."""
        return f"hf://{self}"

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit}"

    def as_input(self, fingerprint: str) -> Input:
        """What is written down where it is used.

        Args:
            fingerprint: of what was read of it.
        """
        return Input(
            kind="hub",
            name=self.repo,
            fingerprint=fingerprint,
            revision=self.commit,
            license=self.license,
            gated=self.gated,
            base_models=self.base_models,
        )


@dataclass(frozen=True)
class HubHead:
    """Where a branch, tag or commit stands, without its files.

    Attributes:
        name: what the Hub calls the model now; differs from the name asked for once it was renamed.
        commit: the full commit id.
        wait: seconds for which nobody should look for changes, because few requests are left; usually ``None``.
    """

    name: str
    commit: str
    wait: float | None = None
