"""Content digests of a checkpoint: one streaming read gives the file's SHA-256 and every tensor's digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.files import fingerprint_files
from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.digests import DIGEST, PATTERN, Hasher, digest_of
from merge_assets.errors import CheckpointError
from merge_assets.filestate import FileState, settled
from merge_assets.regular import open_regular
from merge_assets.sealed import seal, unseal
from merge_assets.work import UNATTENDED, Work

BLOCK = 8 * 1024 * 1024
"""Bytes read at a time; whether to stop is asked once per block."""

MAX_TABLE = 64 * 1024 * 1024
"""Bytes of a tensor that is read when a plan is made."""

_DIGEST = re.compile(rf"[0-9a-f]{{64}}|{PATTERN}")


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
        known = _read_entry(_cache_entry(cache_dir, directory / name, state, own), len(own) + 1)
        if known is None or state.size != checkpoint.files[name]:
            return None
        files[name], *parts = known
        states[name] = state
        tensors.update(zip((tensor.name for tensor in own), parts, strict=True))
    return CheckpointDigest(fingerprint_of(files), files, {name: tensors[name] for name in checkpoint.tensors}, states)


def _covered(checkpoint: Checkpoint) -> dict[str, list[TensorHeader]]:
    """The files that the fingerprint covers, with their tensors."""
    by_file: dict[str, list[TensorHeader]] = {}
    for tensor in checkpoint.tensors.values():
        by_file.setdefault(tensor.file, []).append(tensor)
    return {name: by_file.get(name, []) for name in fingerprint_files(checkpoint.files, checkpoint.weight_files)}


def _digests(
    path: Path, size: int, tensors: Sequence[TensorHeader], cache_dir: Path | None, work: Work
) -> tuple[list[str], FileState]:
    """The file's digest, then each tensor's, and the state of the file in which they are these."""
    try:
        with open_regular(path) as file:
            state = settled(file.fileno())
            if state.size != size:
                raise _changed(path)
            entry = _cache_entry(cache_dir, path, state, tensors) if cache_dir is not None else None
            if entry is not None and (known := _read_entry(entry, len(tensors) + 1)) is not None:
                return known, state
            digests = _hash_file(path, file.fileno(), size, tensors, work)
            if not state.is_same(FileState.of(os.fstat(file.fileno()))):
                raise _changed(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if entry is not None:
        _write_entry(entry, digests)
    return digests, state


def _hash_file(path: Path, descriptor: int, size: int, tensors: Sequence[TensorHeader], work: Work) -> list[str]:
    """Hash a file and, in the same pass, its tensors, which are sorted by offset and do not overlap."""
    whole, parts = hashlib.sha256(), [Hasher() for _ in tensors]
    block = memoryview(bytearray(min(BLOCK, max(size, 1))))
    at = first = 0
    while True:
        work.check(f"digesting {path}")
        count = os.readv(descriptor, [block])
        if not count:
            break
        whole.update(block[:count])
        while first < len(tensors) and tensors[first].end <= at:
            first += 1
        for k in range(first, len(tensors)):
            begin, end = tensors[k].begin - at, tensors[k].end - at
            if begin >= count:
                break
            parts[k].update(block[max(begin, 0) : min(end, count)])
        at += count
    if at != size:
        raise _changed(path)
    return [whole.hexdigest(), *(part.hexdigest() for part in parts)]


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: changed since the checkpoint was opened; wait until it is written, then retry")


def _cache_entry(cache_dir: Path, path: Path, state: FileState, tensors: Sequence[TensorHeader]) -> Path:
    """Where a file's digests are kept; the tensors' offsets are part of the key."""
    key = json.dumps([str(path.resolve()), astuple(state), [[tensor.begin, tensor.end] for tensor in tensors]])
    return cache_dir / "digests" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _read_entry(entry: Path, count: int) -> list[str] | None:
    """The digests that were kept; ``None`` if there are none, or what is there is damaged or of another kind."""
    with suppress(OSError):
        fields = unseal(entry.read_bytes())
        if fields is not None and (fields.get("of"), fields.get("tensors")) == (entry.stem, DIGEST):
            digests = fields.get("digests")
            if isinstance(digests, list) and len(digests) == count and all(_DIGEST.fullmatch(str(d)) for d in digests):
                return digests
    return None


def _write_entry(entry: Path, digests: list[str]) -> None:
    """Keep digests; a cache that cannot be written only costs the next reader time."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=entry.parent, delete=False) as file:
            file.write(seal({"of": entry.stem, "tensors": DIGEST, "digests": digests}))
        os.replace(file.name, entry)  # noqa: PTH105
