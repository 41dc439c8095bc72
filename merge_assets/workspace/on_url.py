"""Models at URLs, such as ``s3://bucket/models/x``: planned from headers, known by the digest of their bytes, read tensor by
tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from merge_assets.checkpoint import (
    TensorHeader,
    fingerprint_files,
    fingerprint_of,
    is_adapter,
    needed_files,
    read_adapter,
    read_checkpoint,
)
from merge_assets.checkpoint.digest import BLOCK, hash_blocks
from merge_assets.checkpoint.finite import NonfiniteCounter
from merge_assets.checkpoint.kept_digests import keep, kept_at, read_kept, read_kept_counts
from merge_assets.digests import digest_of
from merge_assets.errors import CheckpointError
from merge_assets.plan import PlanInput
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.store import Artifact, FileEntry, Piece
from merge_assets.store.foreign import FileSigns, ForeignFolder
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace.bucket import tensor_digests

_WORKERS = 4
"""Files that are digested at once."""


class UrlModels:
    """Models and adapters at URLs, each opened once.

    Args:
        settings: say how their places are opened, and where digests are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[ModelReference, UrlModel] = {}

    def open(self, reference: ModelReference) -> UrlModel:
        """A model from its headers.

        Raises:
            CheckpointError: there is no model.
            StoreError: there is nothing at the URL, or its place does not let it be listed or read.
        """
        if reference not in self._opened:
            self._opened[reference] = UrlModel(reference, self._settings)
        return self._opened[reference]


class UrlModel:
    """A model or an adapter at a URL."""

    def __init__(self, reference: ModelReference, settings: Settings) -> None:
        source = ForeignFolder(reference.path, settings.options_of(reference.path))
        self._reference = reference
        self._source = source
        self._cache = settings.cache_dir
        self.checkpoint = read_adapter(source) if is_adapter(source.files) else read_checkpoint(source)
        """Headers and config."""

    def headers(self, *, with_digests: bool) -> PlanInput:
        """The model for a plan; no weights are read.

        Args:
            with_digests: whether to look up the digests of a model that was digested before and has not changed.
        """
        known = self._known() if with_digests else None
        if known is None:
            return PlanInput(self._reference, self.checkpoint)
        files = {name: entry.digest for name, entry in known.manifest.files.items()}
        return PlanInput(self._reference, self.checkpoint, known.version, tensor_digests(known), files)

    def read(self, header: TensorHeader, begin: int, end: int) -> bytes:
        """Bytes of a tensor, from a place in it to another one; they are compared with no digest."""
        return self._source.read(header.file, header.begin + begin, header.begin + end)

    def _known(self) -> Artifact | None:
        found = {}
        for name in self._needed:
            file = self._source.signs(name)
            known = self._read_kept(name, file)
            if known is None:
                return None
            found[name] = _Digested(file, *known)
        return self._artifact(found)

    def digested(self, work: Work = UNATTENDED) -> Artifact:
        """The model with the digests of all of its bytes; what has not changed since it was digested is not read again.

        Raises:
            CheckpointError: a file cannot be read, or changed meanwhile.
            Stopped: on request.
        """
        names = self._needed
        with ThreadPoolExecutor(_WORKERS, "digest") as pool:
            futures = {name: pool.submit(self._digested, name, work) for name in names}
            found = {name: future.result() for name, future in futures.items()}
        return self._artifact(found)

    @cached_property
    def _needed(self) -> list[str]:
        return needed_files(self._source.files, self.checkpoint.weight_files)

    def _tensors(self, name: str) -> Sequence[TensorHeader]:
        return self.checkpoint.shards.get(name, ())

    def _kept(self, name: str, file: FileSigns) -> Path:
        return kept_at(self._cache, f"{self.checkpoint.location}/{name}", file.state, self._tensors(name))

    def _read_kept(self, name: str, file: FileSigns) -> tuple[list[str], list[int]] | None:
        entry, count = self._kept(name, file), len(self._tensors(name))
        digests, nonfinite = read_kept(entry, count + 2), read_kept_counts(entry, count)
        return None if digests is None or nonfinite is None else (digests, nonfinite)

    def _digested(self, name: str, work: Work) -> _Digested:
        file, tensors = self._source.signs(name), self._tensors(name)
        known = self._read_kept(name, file)
        if known is None:
            head = self._source.read(name, 0, tensors[0].begin if tensors else 0)
            counters = [NonfiniteCounter(tensor.dtype) for tensor in tensors]
            blocks = self._blocks(name, file.size, work)
            (whole, *parts), _ = hash_blocks(blocks, tensors, lambda number, data: counters[number].update(data))
            known = [whole, digest_of(head), *parts], [counter.count for counter in counters]
            if self._source.signs(name).tag != file.tag:
                raise CheckpointError(
                    f"{self.checkpoint.location}/{name}: changed while it was read; wait until it is written, then run the "
                    "command again"
                )
            keep(self._kept(name, file), *known)
        return _Digested(file, *known)

    def _blocks(self, name: str, size: int, work: Work) -> Iterator[bytes]:
        for begin in range(0, size, BLOCK):
            work.check(f"digesting {self.checkpoint.location}/{name}")
            yield self._source.read(name, begin, min(begin + BLOCK, size))

    def _entry(self, name: str, found: _Digested) -> FileEntry:
        whole, head, *parts = found.digests
        tensors = self._tensors(name)
        pieces = [Piece("", 0, tensors[0].begin, head)] if tensors else []
        pieces += [Piece(t.name, t.begin, t.end, digest) for t, digest in zip(tensors, parts, strict=True)]
        return FileEntry(size=found.file.size, sha256=whole, tag=found.file.tag or None, pieces=tuple(pieces))

    def _artifact(self, found: Mapping[str, _Digested]) -> Artifact:
        entries = {name: self._entry(name, one) for name, one in found.items()}
        covered = fingerprint_files(self._source.files, self.checkpoint.weight_files)
        fingerprint = fingerprint_of({name: entries[name].digest for name in covered})
        nonfinite = {
            tensor.name: count
            for name, one in found.items()
            for tensor, count in zip(self._tensors(name), one.nonfinite, strict=True)
            if count
        }
        return self._source.version(fingerprint, entries, nonfinite)


@dataclass(frozen=True)
class _Digested:
    """A file whose bytes were read once.

    Attributes:
        file: what told that these are its bytes.
        digests: SHA-256 of all of it, then digests of what stands before the first tensor and of each tensor.
        nonfinite: NaN and infinite elements of each tensor.
    """

    file: FileSigns
    digests: list[str]
    nonfinite: list[int]
