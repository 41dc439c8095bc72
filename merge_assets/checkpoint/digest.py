"""Content digests of a checkpoint: one streaming read gives the file's SHA-256 and every tensor's digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.files import fingerprint_files
from merge_assets.checkpoint.kept_digests import keep, kept_at, read_kept
from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.digests import Hasher, digest_of
from merge_assets.errors import CheckpointError
from merge_assets.filestate import FileState, settled
from merge_assets.regular import open_regular
from merge_assets.work import UNATTENDED, Work

BLOCK = 8 * 1024 * 1024
"""Bytes read at a time; whether to stop is asked once per block."""

MAX_TABLE = 64 * 1024 * 1024
"""Bytes of a tensor that is read when a plan is made."""


@dataclass(frozen=True)
class CheckpointDigest:
    """Digests, lower-case hexadecimal.

    Attributes:
        fingerprint: of the checkpoint; changes if and only if weights, config or tokenizer bytes change.
        files: SHA-256 of each file that the fingerprint covers.
        tensors: of each tensor's bytes in the file (:mod:`merge_assets.digests`), without its name, dtype and shape.
        states: of each of the files when it was read.
    """

    fingerprint: str
    files: Mapping[str, str]
    tensors: Mapping[str, str]
    states: Mapping[str, FileState] = field(default_factory=dict)


def fingerprint_of(files: Mapping[str, str]) -> str:
    """The fingerprint of a checkpoint whose files (name -> SHA-256) are these; see ``fingerprint_files``."""
    canonical = json.dumps(dict(files), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_checkpoint(
    checkpoint: Checkpoint, cache_dir: Path | None = None, work: Work = UNATTENDED
) -> CheckpointDigest:
    """Digest a local checkpoint, reading each byte at most once.

    Args:
        checkpoint: an opened local checkpoint.
        cache_dir: where the digests of a file are kept under its path and state; a file that has not changed is not read again,
            as far as its state tells (:class:`FileState`). ``None`` keeps nothing.
        work: asked before each block.

    Raises:
        CheckpointError: if the checkpoint is not local, or a file changed since it was opened or while it is read.
        Stopped: on request.
    """
    directory = Path(checkpoint.location)
    if not directory.is_absolute():
        raise CheckpointError(f"{checkpoint.location}: only headers were read; download the checkpoint to digest it")
    files: dict[str, str] = {}
    tensors: dict[str, str] = {}
    states: dict[str, FileState] = {}
    for name, own in _covered(checkpoint).items():
        (whole, *parts), state = _digests(directory / name, checkpoint.files[name], own, cache_dir, work)
        files[name], states[name] = whole, state
        tensors.update(zip((tensor.name for tensor in own), parts, strict=True))
    return CheckpointDigest(fingerprint_of(files), files, {name: tensors[name] for name in checkpoint.tensors}, states)


def table_digest(checkpoint: Checkpoint, header: TensorHeader) -> str | None:
    """Digest of the bytes of one small tensor of a checkpoint on this machine; ``None`` if it is large, or lies elsewhere.

    Raises:
        CheckpointError: if it cannot be read.
    """
    file = Path(checkpoint.location) / header.file
    if "://" in checkpoint.location or header.nbytes > MAX_TABLE or not file.is_file():
        return None
    try:
        with open_regular(file) as source:
            source.seek(header.begin)
            return digest_of(source.read(header.nbytes))
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from None


def known_digests(checkpoint: Checkpoint, cache_dir: Path) -> CheckpointDigest | None:
    """What :func:`digest_checkpoint` kept of a local checkpoint; ``None`` if a file is new or changed since."""
    directory = Path(checkpoint.location)
    files: dict[str, str] = {}
    tensors: dict[str, str] = {}
    states: dict[str, FileState] = {}
    for name, own in _covered(checkpoint).items():
        try:
            state = FileState.of((directory / name).stat())
        except OSError:
            return None
        known = read_kept(kept_at(cache_dir, str((directory / name).resolve()), astuple(state), own), len(own) + 1)
        if known is None or state.size != checkpoint.files[name]:
            return None
        files[name], *parts = known
        states[name] = state
        tensors.update(zip((tensor.name for tensor in own), parts, strict=True))
    return CheckpointDigest(fingerprint_of(files), files, {name: tensors[name] for name in checkpoint.tensors}, states)


def _covered(checkpoint: Checkpoint) -> dict[str, Sequence[TensorHeader]]:
    """The files that the fingerprint covers, with their tensors."""
    return {
        name: checkpoint.shards.get(name, ()) for name in fingerprint_files(checkpoint.files, checkpoint.weight_files)
    }


def _digests(
    path: Path, size: int, tensors: Sequence[TensorHeader], cache_dir: Path | None, work: Work
) -> tuple[list[str], FileState]:
    """The file's digest, then each tensor's, and the state of the file in which they are these."""
    try:
        with open_regular(path) as file:
            state = settled(file.fileno())
            if state.size != size:
                raise _changed(path)
            entry = kept_at(cache_dir, str(path.resolve()), astuple(state), tensors) if cache_dir is not None else None
            if entry is not None and (known := read_kept(entry, len(tensors) + 1)) is not None:
                return known, state
            digests = _hash_file(path, file.fileno(), size, tensors, work)
            if not state.is_same(FileState.of(os.fstat(file.fileno()))):
                raise _changed(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if entry is not None:
        keep(entry, digests)
    return digests, state


def _hash_file(path: Path, descriptor: int, size: int, tensors: Sequence[TensorHeader], work: Work) -> list[str]:
    block = memoryview(bytearray(min(BLOCK, max(size, 1))))

    def blocks() -> Iterator[memoryview]:
        while True:
            work.check(f"digesting {path}")
            count = os.readv(descriptor, [block])
            if not count:
                return
            yield block[:count]

    digests, read = hash_blocks(blocks(), tensors)
    if read != size:
        raise _changed(path)
    return digests


def hash_blocks(
    blocks: Iterable[bytes | memoryview],
    tensors: Sequence[TensorHeader],
    saw: Callable[[int, memoryview], None] | None = None,
) -> tuple[list[str], int]:
    """Hash a file and, in the same pass, its tensors.

    Args:
        blocks: the file's bytes, in order.
        tensors: of the file, sorted by offset, none over another.
        saw: told of the bytes of each tensor, by its number, in order.

    Returns:
        SHA-256 of the file, then each tensor's digest; how many bytes there were.
    """
    whole, parts = hashlib.sha256(), [Hasher() for _ in tensors]
    at = first = 0
    for block in blocks:
        count = len(block)
        whole.update(block)
        while first < len(tensors) and tensors[first].end <= at:
            first += 1
        for k in range(first, len(tensors)):
            begin, end = tensors[k].begin - at, tensors[k].end - at
            if begin >= count:
                break
            own = memoryview(block)[max(begin, 0) : min(end, count)]
            parts[k].update(own)
            if saw is not None:
                saw(k, own)
        at += count
    return [whole.hexdigest(), *(part.hexdigest() for part in parts)], at


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: changed since the checkpoint was opened; wait until it is written, then retry")
