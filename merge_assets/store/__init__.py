"""Where artifacts live: immutable versions, committed whole or not at all, on a folder or any fsspec URL."""

from merge_assets.store.artifact import Artifact
from merge_assets.store.cache import TensorCache
from merge_assets.store.draft import BuildDraft, Draft
from merge_assets.store.lease import Turn
from merge_assets.store.manifest import FileEntry, Manifest, Piece
from merge_assets.store.planned import Origin, PlannedFile, PlannedPiece
from merge_assets.store.reuse import Verify
from merge_assets.store.store import ArtifactStore

__all__ = [
    "Artifact",
    "ArtifactStore",
    "BuildDraft",
    "Draft",
    "FileEntry",
    "Manifest",
    "Origin",
    "Piece",
    "PlannedFile",
    "PlannedPiece",
    "TensorCache",
    "Turn",
    "Verify",
]
