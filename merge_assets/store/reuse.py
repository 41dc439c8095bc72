"""Whether finished bytes of other versions are still what they were."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from merge_assets.digests import Hasher
from merge_assets.errors import StoreError
from merge_assets.store.fetching import CHUNK
from merge_assets.store.manifest import Piece
from merge_assets.store.place import Place
from merge_assets.store.place.place import OUTSIDE
from merge_assets.store.planned import Origin
from merge_assets.work import UNATTENDED, Work

_LOG = logging.getLogger(__name__)

Verify = Literal["full", "sampled", "off"]
"""How much of what is reused is read and compared with its digest first."""

_SAMPLE = 1000
"""One byte of so many is read for a sample, in whole pieces, and at least one piece of each file."""

_READERS = 4
_LOOKS = 3
"""How often a piece is read before it counts as damaged: one garbled on its way comes right the next time."""


def verified(place: Place, origins: Mapping[str, Origin], verify: Verify, work: Work = UNATTENDED) -> dict[str, Origin]:
    """The origins that may be used: those of files in which nothing wrong was found.

    Args:
        place: where the store lies.
        origins: by any name.
        verify: ``full`` reads all of them, ``sampled`` about a thousandth, ``off`` nothing.
        work: asked before every piece.
    """
    by_file: dict[str, list[Origin]] = {}
    for origin in {(o.path, o.piece.begin): o for o in origins.values()}.values():
        by_file.setdefault(origin.path, []).append(origin)
    chosen = [origin for one in by_file.values() for origin in _chosen(one, verify)]

    def check(origin: Origin) -> bool:
        work.check("looking at what can be reused")
        try:
            return _digest(place, origin) == origin.piece.digest
        except StoreError as error:
            _LOG.warning("%s", error)
            return False

    with ThreadPoolExecutor(_READERS) as pool:
        bad = {origin.path for origin, good in zip(chosen, pool.map(check, chosen), strict=True) if not good}
    bad |= {path for path, one in by_file.items() if path not in bad and verify != "off" and _is_another(place, one[0])}
    for path in sorted(bad):
        if path.startswith(OUTSIDE):
            _LOG.warning("%s is not what it was when it was digested, and is not copied", place.url(path))
        else:
            _LOG.warning("%s is damaged and nothing of it is reused; run `merge-assets store verify`", place.url(path))
    return {name: origin for name, origin in origins.items() if origin.path not in bad}


def _is_another(place: Place, origin: Origin) -> bool:
    """Whether the place says that a file was written over since its version was made."""
    return place.parts is not None and origin.tag is not None and place.parts.tag(origin.path) != origin.tag


def _chosen(origins: list[Origin], verify: Verify) -> list[Origin]:
    if verify == "full":
        return origins
    if verify == "off":
        return []
    by_piece = {origin.piece: origin for origin in origins}
    return [by_piece[piece] for piece in sample(list(by_piece))]


def sample(pieces: Sequence[Piece]) -> list[Piece]:
    """The smallest piece that has any bytes, and others by chance: about a thousandth of the bytes."""
    pieces = [piece for piece in pieces if piece.size]
    if not pieces:
        return []
    smallest = min(pieces, key=lambda piece: piece.size)
    chosen, budget = [smallest], sum(piece.size for piece in pieces) // _SAMPLE
    for piece in random.sample(pieces, len(pieces)):
        if piece is not smallest and piece.size <= budget:
            budget -= piece.size
            chosen.append(piece)
    return chosen


def _digest(place: Place, origin: Origin) -> str:
    piece = origin.piece
    for _ in range(_LOOKS):
        hasher = Hasher()
        for begin in range(piece.begin, piece.end, CHUNK):
            hasher.update(place.read_range(origin.path, begin, min(begin + CHUNK, piece.end)))
        digest = hasher.hexdigest()
        if digest == piece.digest:
            break
    return digest
