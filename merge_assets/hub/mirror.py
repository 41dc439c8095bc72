"""A commit of the Hub in an object store: a version of its files, of which only what is new is downloaded and sent."""

from __future__ import annotations

import hashlib
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from merge_assets.checkpoint import TensorHeader, needed_files, nonfinite_elements
from merge_assets.errors import HubError
from merge_assets.hub.hub import Hub
from merge_assets.hub.revision import HubRevision
from merge_assets.records import MirrorDetails, MirrorReport
from merge_assets.store import Artifact, ArtifactStore, BuildDraft, Origin, Piece, PlannedFile, PlannedPiece
from merge_assets.store.building import copy_range, hash_range
from merge_assets.store.place.locks import exclusive_unless_stopped
from merge_assets.work import UNATTENDED, Work

_AHEAD = 2
"""Shards that are on the local disk at once."""

_HASHERS = 2
_POLL = 0.2  # seconds between two questions whether to stop


def mirror(
    hub: Hub, revision: HubRevision, store: ArtifactStore, line: str, scratch: Path, *, work: Work = UNATTENDED
) -> Artifact:
    """The version of a commit in an object store, made if it is not there.

    A shard that an earlier version has is copied by the server. Another is downloaded, and of it what no earlier version has
    is sent. Shards lie on the local disk one after the other, never all of them.

    Args:
        hub: where the commit is.
        revision: the commit.
        store: lies in a bucket.
        line: where the version belongs.
        scratch: local folder for shards.
        work: told bytes of shards that are in the store, and bytes of all; asked throughout.

    Raises:
        HubError: a file cannot be downloaded, or does not have the digest that the Hub says.
        StoreError: the store cannot be reached or written.
    """
    fingerprint = hub.fingerprint(revision)
    with exclusive_unless_stopped(scratch / "mirror" / f"{fingerprint}.lock", work):
        found = store.reuse(line, fingerprint)
        if found is not None:
            return found
        return _mirrored(hub, revision, fingerprint, store, line, scratch, work)


def _mirrored(
    hub: Hub, revision: HubRevision, fingerprint: str, store: ArtifactStore, line: str, scratch: Path, work: Work
) -> Artifact:
    checkpoint = hub.open(revision)
    by_file = checkpoint.shards
    earlier = _Earlier(list(reversed(store.versions(line))))
    shards = list(by_file)
    total, done = sum(revision.files[name].size for name in shards), 0
    flaws: dict[str, int] = {}
    with store.build(line, fingerprint, work=work) as draft:
        new: list[str] = []
        for name in shards:
            sha256 = revision.files[name].sha256
            pieces = earlier.file(sha256) if sha256 else None
            if pieces is None:
                new.append(name)
                continue
            head = hub.read_head(revision, name, by_file[name][0].begin)
            draft.building.add([_planned(name, head, by_file[name], sha256)], {p.piece.name: p for p in pieces})
            flaws |= {p.piece.name: p.nonfinite for p in pieces if p.nonfinite}
            done += revision.files[name].size
        with _downloads(hub, revision, new, scratch / "mirror" / fingerprint, work) as downloads:
            for name, path in downloads:
                flaws |= _add(draft, earlier, name, path, by_file[name], revision.files[name].sha256, work)
                done += revision.files[name].size
                work.report(done, total, f"{revision}: {name}")
        for name in needed_files(revision.files, shards):
            if name not in by_file:
                target = draft.directory / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(hub.read(revision, name))
        tally = draft.building.tally
        return draft.commit(
            fingerprint,
            key=fingerprint,
            inputs=[revision.as_input(revision.commit)],
            details=MirrorDetails(
                repository=revision.repo,
                commit=revision.commit,
                nonfinite=flaws,
                report=MirrorReport(
                    shards_downloaded=len(new),
                    bytes_reused=tally.reused,
                    bytes_resumed=tally.resumed,
                    bytes_sent=tally.sent,
                    tensors_by_server=tally.by_server,
                ),
            ),
            work=work.silent(),
        )


class _Earlier:
    """The files and pieces of earlier versions."""

    def __init__(self, versions: list[Artifact]) -> None:
        self._files: dict[str, list[Origin]] = {}
        self._pieces: dict[str, Origin] = {}
        for artifact in versions:
            for name, entry in artifact.manifest.files.items():
                origins = [artifact.origin(name, piece) for piece in entry.pieces if piece.name]
                if origins and entry.sha256:
                    self._files.setdefault(entry.sha256, origins)
                for origin in origins:
                    self._pieces.setdefault(origin.piece.digest, origin)

    def file(self, sha256: str) -> list[Origin] | None:
        """The pieces of a file with this content."""
        return self._files.get(sha256)

    def piece(self, digest: str) -> Origin | None:
        """A piece with this content."""
        return self._pieces.get(digest)


def _planned(name: str, head: bytes, tensors: Sequence[TensorHeader], sha256: str | None) -> PlannedFile:
    return PlannedFile(name, head, tuple(PlannedPiece(t.name, t.begin, t.end, "") for t in tensors), sha256)


def _add(
    draft: BuildDraft,
    earlier: _Earlier,
    name: str,
    path: Path,
    tensors: Sequence[TensorHeader],
    sha256: str | None,
    work: Work,
) -> dict[str, int]:
    """Bring a downloaded shard into a draft; returns the NaN and infinite elements by tensor."""
    with ThreadPoolExecutor(_HASHERS) as pool:
        hashed = pool.map(lambda tensor: hash_range(path, tensor.begin, tensor.end), tensors)
        counted = pool.map(lambda tensor: nonfinite_elements(path, tensor), tensors)
        digests = {tensor.name: digest for tensor, digest in zip(tensors, hashed, strict=True)}
        flaws = {tensor.name: count for tensor, count in zip(tensors, counted, strict=True) if count}
    origins = {
        tensor: replace(found, piece=Piece(tensor, found.piece.begin, found.piece.end, digest))
        for tensor, digest in digests.items()
        if (found := earlier.piece(digest)) is not None
    }
    with path.open("rb") as file:
        head = file.read(tensors[0].begin)
    building = draft.building
    building.add([_planned(name, head, tensors, sha256)], origins)
    with path.open("rb") as source, (draft.directory / name).open("r+b") as target:
        for tensor in tensors:
            work.check(f"mirroring {name}")
            if tensor.name not in building.finished:
                copy_range(source.fileno(), target.fileno(), tensor.begin, tensor.begin, tensor.nbytes)
                building.landed(tensor.name, 0, digests[tensor.name])
    return flaws


@contextmanager
def _downloads(
    hub: Hub, revision: HubRevision, names: list[str], folder: Path, work: Work
) -> Iterator[Iterator[tuple[str, Path]]]:
    """Shards on the local disk, downloaded ahead, checked, and removed once the next one is asked for."""
    pool = ThreadPoolExecutor(_AHEAD, "mirror")

    def bring(name: str) -> Path:
        path = hub.fetch_into(revision, name, folder)
        sha256 = revision.files[name].sha256
        if sha256 is not None and _sha256(path) != sha256:
            path.unlink()
            raise HubError(revision, f"{name} came with other bytes than the Hub says; try again", "failing")
        return path

    def walk() -> Iterator[tuple[str, Path]]:
        left = iter(names)
        waiting = deque((name, pool.submit(bring, name)) for name in islice(left, _AHEAD))
        while waiting:
            name, future = waiting[0]
            while not future.done():
                work.check(f"downloading {revision}")
                wait([future], timeout=_POLL)
            path = future.result()
            yield name, path
            path.unlink(missing_ok=True)
            waiting.popleft()
            waiting.extend((name, pool.submit(bring, name)) for name in islice(left, 1))

    try:
        yield walk()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
