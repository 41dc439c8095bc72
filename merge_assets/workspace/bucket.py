"""Checkpoints that lie in an object store: opened by ranges, their tensors fetched one by one, never the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from merge_assets.checkpoint import Checkpoint, nonfinite_elements, read_checkpoint
from merge_assets.engine.fetched import FetchedFiles
from merge_assets.filestate import FileState
from merge_assets.plan import Plan, TensorInput
from merge_assets.regular import open_regular
from merge_assets.store import Artifact, Origin, Piece, TensorCache


class StoredSource:
    """The files of a version, for :func:`read_checkpoint`: small ones whole, of weights the header; all of it checked."""

    workers = 8

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._heads: dict[str, bytes] = {}
        self.files: Mapping[str, int] = {name: entry.size for name, entry in artifact.manifest.files.items()}

    @property
    def location(self) -> str:
        return self._artifact.url

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        if name not in self._heads:
            pieces = self._artifact.manifest.files[name].pieces
            self._heads[name] = (
                self._artifact.read_piece(name, pieces[0]) if pieces else self._artifact.read_bytes(name)
            )
        return self._heads[name][begin:end]


class StoredModels:
    """The models of the object store that a build reads.

    Args:
        cache: local folder for tensors.
        limit: bytes that it may take.
    """

    def __init__(self, cache: Path, limit: int) -> None:
        self._cache = TensorCache(cache, limit)
        self._artifacts: dict[str, Artifact] = {}
        self._elsewhere: set[str] = set()
        self._pieces: dict[str, dict[tuple[str, str], Piece]] = {}

    @property
    def fetched(self) -> int:
        """Bytes that came from the object store."""
        return self._cache.fetched

    def open(self, artifact: Artifact, *, elsewhere: bool = False) -> Checkpoint:
        """Headers and config of a version.

        Args:
            artifact: the version.
            elsewhere: whether it lies in another place than the store, which can copy nothing out of there.
        """
        self._artifacts[artifact.url] = artifact
        if elsewhere:
            self._elsewhere.add(artifact.url)
        self._pieces[artifact.url] = {
            (name, piece.name): piece for name, entry in artifact.manifest.files.items() for piece in entry.pieces
        }
        return read_checkpoint(StoredSource(artifact))

    def read(self, location: str, file: str) -> bytes:
        """A small file of a model, in the object store or in a local folder.

        Raises:
            OSError: if a local file cannot be read.
            StoreError: if one of the store cannot.
        """
        artifact = self._artifacts.get(location)
        if artifact is not None:
            return artifact.read_bytes(file)
        with open_regular(Path(location, file)) as opened:
            return opened.readall()

    def inputs(self, digested: Mapping[str, FileState]) -> FetchedFiles:
        """What the engine reads inputs through.

        Args:
            digested: states in which local files were digested, by path.
        """
        return FetchedFiles(self._fetch, self._cache.close, digested)

    def origin(self, plan: Plan, item: TensorInput) -> Origin | None:
        """Where the bytes of an input lie in the store; ``None`` for one that lies elsewhere."""
        location = plan.models[item.model].location
        artifact = self._artifacts.get(location)
        if artifact is None or location in self._elsewhere:
            return None
        return artifact.origin(item.header.file, self._piece(location, item))

    def nonfinite(self, plan: Plan) -> dict[str, int]:
        """NaN and infinite elements of the outputs that are copies of tensors of the object store."""
        counts = {}
        for tensor in plan.tensors:
            artifact = self._artifacts.get(plan.models[tensor.inputs[0].model].location) if tensor.is_copy else None
            if artifact is not None:
                item = tensor.inputs[0]
                known = artifact.manifest.common.nonfinite.get(item.header.name, 0)
                counts[tensor.name] = self._counted(artifact, item) if artifact.url in self._elsewhere else known
        return counts

    def _counted(self, artifact: Artifact, item: TensorInput) -> int:
        held = self._fetch(artifact.url, item)
        try:
            alone = replace(item.header, begin=0, end=item.header.nbytes)
            return nonfinite_elements(Path(f"/proc/self/fd/{held}"), alone)
        finally:
            self._cache.close(held)

    def _fetch(self, location: str, item: TensorInput) -> int:
        return self._cache.open(self._artifacts[location], item.header.file, self._piece(location, item))

    def _piece(self, location: str, item: TensorInput) -> Piece:
        return self._pieces[location][item.header.file, item.header.name]


def tensor_digests(artifact: Artifact) -> dict[str, str]:
    """Digest of every tensor of a version, by name."""
    return {
        piece.name: piece.digest for entry in artifact.manifest.files.values() for piece in entry.pieces if piece.name
    }
