"""Digests of tensors' bytes over fixed blocks, so that parts of one tensor can be taken by several threads, in any order.

The digest of some bytes is BLAKE3 of the BLAKE3 digests of their blocks of :data:`BLOCK` bytes, one after the other. Whole
files that the Hub knows are compared by SHA-256, which is what it says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from blake3 import blake3

DIGEST: Literal["blake3-1MiB"] = "blake3-1MiB"
"""What records call this digest."""

BLOCK = 1 << 20
"""Bytes of a block; the last one may be shorter."""

Bytes = bytes | bytearray | memoryview


def block_count(size: int) -> int:
    """Blocks of so many bytes."""
    return -(-size // BLOCK)


def root(leaves: Sequence[bytes]) -> str:
    """The digest of bytes whose blocks have these digests, lower-case hexadecimal."""
    return blake3(b"".join(leaves)).hexdigest()


def digest_of(data: Bytes) -> str:
    """The digest of bytes in memory, lower-case hexadecimal."""
    hasher = Hasher()
    hasher.update(data)
    return hasher.hexdigest()


class Hasher:
    """Digests bytes that come in order.

    Args:
        first: number of the block that the first of them begins.

    Attributes:
        leaves: digests of the blocks that are complete, by number.
        at: offset of the byte that comes next.
    """

    def __init__(self, first: int = 0) -> None:
        self.leaves: dict[int, bytes] = {}
        self.at = first * BLOCK
        self._block = blake3()

    def update(self, data: Bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
        done = 0
        while done < len(view):
            step = min(len(view) - done, BLOCK - self.at % BLOCK)
            self._block.update(view[done : done + step])
            done += step
            self.at += step
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

    def _close(self, number: int) -> None:
        self.leaves[number] = self._block.digest()
        self._block = blake3()
