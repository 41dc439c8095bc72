"""Where artifacts live: immutable versions, committed whole or not at all, on a folder or any fsspec URL."""

from merge_assets.store.artifact import Artifact
from merge_assets.store.manifest import FileEntry, Manifest
from merge_assets.store.store import ArtifactStore, Draft

__all__ = ["Artifact", "ArtifactStore", "Draft", "FileEntry", "Manifest"]
