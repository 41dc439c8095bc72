"""Philox4x32-10 in numpy, from the paper (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox(counters: Words, key: tuple[int, int]) -> Words:
    """The block of four words of each counter; ``counters`` and the result have the shape (n, 4)."""
    c0, c1, c2, c3 = (counters[:, place].astype(np.uint64) for place in range(4))
    low = np.uint64(0xFFFFFFFF)
    for turn in range(_ROUNDS):
        k0, k1 = (np.uint64((word + turn * weyl) % 2**32) for word, weyl in zip(key, _WEYL, strict=True))
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ k0,
            second & low,
            (first >> np.uint64(32)) ^ c3 ^ k1,
            first & low,
        )
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def words(seed: int, tensor: str, position: int, count: int) -> Words:
    """One word for each of the first ``count`` elements of a task vector, as the contract of the masks has it.

    Key: the first 8 bytes of BLAKE2b over seed, tensor name and position; counter: the element's index over 4.
    """
    digest = hashlib.blake2b(f"{seed}\0{tensor}\0{position}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    counters = np.zeros((block.size, 4), dtype=np.uint32)
    counters[:, 0] = (block & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    counters[:, 1] = (block >> np.uint64(32)).astype(np.uint32)
    return philox(counters, key).ravel()[:count]
