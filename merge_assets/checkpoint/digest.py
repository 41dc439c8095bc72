"""Content digests of a checkpoint: one streaming read gives the file's and every tensor's SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.files import fingerprint_files
from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.errors import CheckpointError
from merge_assets.regular import open_regular
from merge_assets.work import UNATTENDED, Work

BLOCK = 8 * 1024 * 1024
"""Bytes read at a time; whether to stop is asked once per block."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CheckpointDigest:
    """SHA-256 digests, lower-case hexadecimal.

    Attributes:
        fingerprint: of the checkpoint; changes if and only if weights, config or tokenizer bytes change.
        files: of each file that the fingerprint covers.
        tensors: of each tensor's bytes in the file, without its name, dtype and shape.
    """

    fingerprint: str
    files: Mapping[str, str]
    tensors: Mapping[str, str]


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
        cache_dir: where the digests of a file are kept under its real path, size, modification time and inode;
            a file that has not changed is not read again. ``None`` keeps nothing.
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
    for name, own in _covered(checkpoint).items():
        whole, *parts = _digests(directory / name, checkpoint.files[name], own, cache_dir, work)
        files[name] = whole
        tensors.update(zip((tensor.name for tensor in own), parts, strict=True))
    return CheckpointDigest(fingerprint_of(files), files, {name: tensors[name] for name in checkpoint.tensors})


def known_digests(checkpoint: Checkpoint, cache_dir: Path) -> CheckpointDigest | None:
    """What :func:`digest_checkpoint` kept of a local checkpoint; ``None`` if a file is new or changed since."""
    directory = Path(checkpoint.location)
    files: dict[str, str] = {}
    tensors: dict[str, str] = {}
    for name, own in _covered(checkpoint).items():
        try:
            identity = _identity(directory / name)
        except OSError:
            return None
        known = _read_entry(_cache_entry(cache_dir, identity, own), len(own) + 1)
        if known is None or identity[1] != checkpoint.files[name]:
            return None
        files[name], *parts = known
        tensors.update(zip((tensor.name for tensor in own), parts, strict=True))
    return CheckpointDigest(fingerprint_of(files), files, {name: tensors[name] for name in checkpoint.tensors})


def _covered(checkpoint: Checkpoint) -> dict[str, list[TensorHeader]]:
    """The files that the fingerprint covers, with their tensors."""
    by_file: dict[str, list[TensorHeader]] = {}
    for tensor in checkpoint.tensors.values():
        by_file.setdefault(tensor.file, []).append(tensor)
    return {name: by_file.get(name, []) for name in fingerprint_files(checkpoint.files, checkpoint.weight_files)}


def _digests(path: Path, size: int, tensors: Sequence[TensorHeader], cache_dir: Path | None, work: Work) -> list[str]:
    """The file's digest, then each tensor's."""
    try:
        identity = _identity(path)
        if identity[1] != size:
            raise _changed(path)
        entry = _cache_entry(cache_dir, identity, tensors) if cache_dir is not None else None
        if entry is not None and (known := _read_entry(entry, len(tensors) + 1)) is not None:
            return known
        digests = _hash_file(path, size, tensors, work)
        if _identity(path) != identity:
            raise _changed(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if entry is not None:
        _write_entry(entry, digests)
    return digests


def _hash_file(path: Path, size: int, tensors: Sequence[TensorHeader], work: Work) -> list[str]:
    """Hash a file and, in the same pass, its tensors, which are sorted by offset and do not overlap."""
    whole, parts = hashlib.sha256(), [hashlib.sha256() for _ in tensors]
    block = memoryview(bytearray(min(BLOCK, max(size, 1))))
    at = first = 0
    with open_regular(path) as file:
        while True:
            work.check(f"digesting {path}")
            count = file.readinto(block)
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


def _identity(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: changed since the checkpoint was opened; wait until it is written, then retry")


def _cache_entry(cache_dir: Path, identity: tuple[str, int, int, int], tensors: Sequence[TensorHeader]) -> Path:
    """Where a file's digests are kept; the tensors' offsets are part of the key."""
    key = json.dumps([*identity, [[tensor.begin, tensor.end] for tensor in tensors]])
    return cache_dir / "digests" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _read_entry(entry: Path, count: int) -> list[str] | None:
    with suppress(OSError, ValueError):
        digests = json.loads(entry.read_text())
        if isinstance(digests, list) and len(digests) == count and all(_SHA256.fullmatch(str(d)) for d in digests):
            return digests
    return None


def _write_entry(entry: Path, digests: list[str]) -> None:
    """Keep digests; a cache that cannot be written only costs the next reader time."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=entry.parent, delete=False) as file:
            json.dump(digests, file)
        os.replace(file.name, entry)  # noqa: PTH105
