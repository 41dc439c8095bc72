"""Digests of tensors' bytes over fixed blocks, so that parts of one tensor can be taken by several threads, in any order.

A digest has two halves. The first tells what the bytes are, whoever made them: BLAKE3 of the BLAKE3 digests of their blocks of
:data:`BLOCK` bytes, one after the other. The second is the same with XXH3 (128 bits), which takes a seventh of the time: with
it is compared what is read for a merge. Damage and change do not get past it; whoever wants to find other bytes with the same
XXH3 can, and has the state of the file (:mod:`merge_assets.filestate`) to get past, too.

Whole files that the Hub knows are compared by SHA-256, which is what it says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from blake3 import blake3
from xxhash import xxh3_128

DIGEST: Literal["blake3-xxh3-1MiB"] = "blake3-xxh3-1MiB"
"""What records call this digest."""

BLOCK = 1 << 20
"""Bytes of a block; the last one may be shorter."""

PATTERN = r"[0-9a-f]{64}-[0-9a-f]{32}"
"""What a digest looks like."""

_FIRST = 32
"""Bytes of a block's BLAKE3; its XXH3 follows."""

Bytes = bytes | bytearray | memoryview


def block_count(size: int) -> int:
    """Blocks of so many bytes."""
    return -(-size // BLOCK)


def root(leaves: Sequence[bytes]) -> str:
    """The digest of bytes whose blocks have these digests, lower-case hexadecimal."""
    return f"{blake3(b''.join(leaf[:_FIRST] for leaf in leaves)).hexdigest()}-{quick_root([leaf[_FIRST:] for leaf in leaves])}"


def quick_root(leaves: Sequence[bytes]) -> str:
    """The second half of the digest of bytes whose blocks have these checksums."""
    return xxh3_128(b"".join(leaves)).hexdigest()


def second_half(digest: str) -> str:
    """That of a whole digest: what :func:`quick_root` gives of the same bytes."""
    return digest.rpartition("-")[2]


def digest_of(data: Bytes) -> str:
    """The digest of bytes in memory, lower-case hexadecimal."""
    hasher = Hasher()
    hasher.update(data)
    return hasher.hexdigest()


class Hasher:
    """Digests bytes that come in order.

    Args:
        first: number of the block that the first of them begins.
        quick: for the second half of the digest alone.

    Attributes:
        leaves: digests of the blocks that are complete, by number; for :func:`root` or, if quick, :func:`quick_root`.
        at: offset of the byte that comes next.
    """

    def __init__(self, first: int = 0, *, quick: bool = False) -> None:
        self.leaves: dict[int, bytes] = {}
        self.at = first * BLOCK
        self._quick = quick
        self._begin()

    def update(self, data: Bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            step = BLOCK - self.at % BLOCK
            part = view[:step]
            for half in self._halves:
                half.update(part)
            self.at += len(part)
            view = view[step:]
            if self.at % BLOCK == 0:
                self._close((self.at - 1) // BLOCK)

    def finish(self) -> None:
        """The bytes are at their end: the last block counts, too."""
        if self.at % BLOCK:
            self._close(self.at // BLOCK)

    def hexdigest(self) -> str:
        """The digest of all bytes, which began with the first block."""
        self.finish()
        return root([self.leaves[number] for number in range(len(self.leaves))])

    def quick_hexdigest(self) -> str:
        """The second half of the digest of all bytes, which began with the first block; of a quick one."""
        self.finish()
        return quick_root([self.leaves[number] for number in range(len(self.leaves))])

    def _close(self, number: int) -> None:
        self.leaves[number] = b"".join(half.digest() for half in self._halves)
        self._begin()

    def _begin(self) -> None:
        self._halves = (xxh3_128(),) if self._quick else (blake3(), xxh3_128())
