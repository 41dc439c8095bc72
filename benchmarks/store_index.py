"""How long a build looks for the tensors that the store has already, and with how many requests.

    python -m benchmarks.store_index [VERSIONS] [TENSORS] [BUCKET_URL]

It fills a store with versions of different recipes, of which each shares one layer with the next, and looks up the keys of the
plan of one more, as a build does: with an index that is up to date, with one that lacks the newest version, and with none. The
target is 50 ms on a local disk with 200 versions and a plan of 300 tensors.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from merge_assets.digests import digest_of
from merge_assets.records import Details
from merge_assets.store import ArtifactStore
from merge_assets.store.manifest import FileEntry, Piece, new_manifest
from merge_assets.store.names import INDEX, MANIFEST

TARGET_SECONDS = 0.05
SHARED = 9
"""Tensors of a layer."""
_FILES = 12
"""Files of a version beside that of weights: config, tokenizer, card, plan and so on."""


def key_of(text: str) -> str:
    """A digest of any text."""
    return hashlib.sha256(text.encode()).hexdigest()


def keys_of(version: int, tensors: int) -> list[str]:
    """The tensor keys of a version, the first of which the version before it has too."""
    own = [f"{version} {number}" for number in range(tensors - SHARED)]
    return [key_of(text) for text in ([f"{version - 1} {number}" for number in range(SHARED)] + own)]


def publish(store: ArtifactStore, version: int, keys: Sequence[str]) -> None:
    """A version whose tensors have one byte each."""
    line, name = f"variants/recipe-{version}", key_of(str(version))
    data = bytes(len(keys) + 1)
    digest = digest_of(b"\0")
    pieces = [Piece("", 0, 1, digest)]
    pieces += [Piece(f"model.layers.{n}.weight", n + 1, n + 2, digest, key) for n, key in enumerate(keys)]
    files = {"model.safetensors": FileEntry(size=len(data), pieces=tuple(pieces))}
    files |= {f"file-{n}.json": FileEntry(size=2, sha256=hashlib.sha256(b"{}").hexdigest()) for n in range(_FILES)}
    manifest = new_manifest(
        line, name, key=key_of(f"key {version}"), files=files, inputs=[], details=Details(), started=datetime.now(UTC)
    )
    base = f"{line}/{name}"
    store.place.write({f"{base}/model.safetensors": data} | {f"{base}/file-{n}.json": b"{}" for n in range(_FILES)})
    store.place.write({f"{base}/{MANIFEST}": manifest.encode()})


def look_up(store: ArtifactStore, keys: Sequence[str]) -> tuple[float, int]:
    """Seconds, and how many were found."""
    began = time.perf_counter()
    found = store.origins(set(keys), "variants/new")
    return time.perf_counter() - began, len(found)


def main() -> int:
    """Fill a store and look up."""
    versions, tensors = (int(text) for text in (sys.argv[1:3] + ["200", "300"][len(sys.argv[1:3]) :]))
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(sys.argv[3] if len(sys.argv) > 3 else folder)
        for number in range(1, versions + 1):
            publish(store, number, keys_of(number, tensors))
        plan = keys_of(versions + 1, tensors)
        print(f"{store.url}: {versions} versions of {tensors} tensors; a plan of {len(plan)}")
        seconds, found = look_up(store, plan)
        print(f"without an index: {seconds * 1000:.0f} ms, {found} found")
        times = [look_up(store, plan)[0] for _ in range(9)]
        print(
            f"with an index:    {statistics.median(times) * 1000:.1f} ms at the median, {min(times) * 1000:.1f} at best"
        )
        publish(store, versions + 1, plan)
        seconds, found = look_up(store, plan)
        print(f"one version more: {seconds * 1000:.1f} ms, {found} found")
        size = len(store.place.read(f"variants/{INDEX}") or b"")
        print(f"index: {size / 1e6:.2f} MB; target {TARGET_SECONDS * 1000:.0f} ms")
    return int(statistics.median(times) > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
