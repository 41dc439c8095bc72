"""Checkpoints that lie in an object store: opened by ranges, their tensors fetched one by one, never the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from merge_assets.checkpoint import Checkpoint, read_checkpoint
from merge_assets.engine.fetched import FetchedFiles
from merge_assets.errors import DamageError
from merge_assets.filestate import FileState, not_as_digested
from merge_assets.plan import OutputTensor, Plan, TensorInput
from merge_assets.regular import open_regular
from merge_assets.store import Artifact, Origin, Piece, TensorCache
from merge_assets.store.place import Place


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
            elsewhere: whether it lies in another place than the store.
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

    def origins(
        self, plan: Plan, tensors: Iterable[OutputTensor]
    ) -> tuple[dict[str, Origin], dict[str, tuple[Place, Origin]]]:
        """Where the bytes of outputs lie that are copies of inputs: of those in the store, and of those elsewhere, each of
        these with the place that it lies in; by output."""
        ours: dict[str, Origin] = {}
        others: dict[str, tuple[Place, Origin]] = {}
        for tensor, artifact, item in self._copies(plan, tensors):
            origin = artifact.origin(item.header.file, self._piece(artifact.url, item))
            if artifact.url in self._elsewhere:
                others[tensor.name] = artifact.place, origin
            else:
                ours[tensor.name] = origin
        return ours, others

    def beside(self, plan: Plan, place: Place) -> dict[str, tuple[str, str]]:
        """The files that are carried along from models elsewhere which the server of a place reaches, by name: where from, and
        the tag of the content."""
        found = {}
        for carried in plan.carried:
            artifact = self._artifacts.get(plan.models[carried.model].location)
            if artifact is None or artifact.url not in self._elsewhere or place.parts is None:
                continue
            entry = artifact.manifest.files.get(carried.file)
            path = place.parts.reached(artifact.place, artifact.at(carried.file))
            if path is not None and entry is not None and entry.tag and entry.sha256 == carried.digest:
                found[carried.file] = path, entry.tag
        return found

    def nonfinite(self, plan: Plan) -> dict[str, int]:
        """NaN and infinite elements of the outputs that are copies of tensors of the object store."""
        return {
            tensor.name: artifact.manifest.common.nonfinite.get(item.header.name, 0)
            for tensor, artifact, item in self._copies(plan, plan.tensors)
        }

    def _copies(
        self, plan: Plan, tensors: Iterable[OutputTensor]
    ) -> Iterator[tuple[OutputTensor, Artifact, TensorInput]]:
        for tensor in tensors:
            artifact = self._artifacts.get(plan.models[tensor.inputs[0].model].location) if tensor.is_copy else None
            if artifact is not None:
                yield tensor, artifact, tensor.inputs[0]

    def _fetch(self, location: str, item: TensorInput) -> int:
        try:
            return self._cache.open(self._artifacts[location], item.header.file, self._piece(location, item))
        except DamageError:
            if location not in self._elsewhere:
                raise
            raise not_as_digested(f"{location}/{item.header.file}: tensor {item.header.name!r}") from None

    def _piece(self, location: str, item: TensorInput) -> Piece:
        return self._pieces[location][item.header.file, item.header.name]


def tensor_digests(artifact: Artifact) -> dict[str, str]:
    """Digest of every tensor of a version, by name."""
    return {
        piece.name: piece.digest for entry in artifact.manifest.files.values() for piece in entry.pieces if piece.name
    }
