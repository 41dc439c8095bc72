"""Random masks from a counter-based generator: the same whatever the tiles, threads and device.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011). The element with flat
index i takes word i % 4 of the output for the counter (i // 4, 0, 0) of 64, 32 and 32 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def random_words(key: tuple[int, int], start: int, count: int, device: torch.device) -> torch.Tensor:
    """Words of the flat indices ``start`` to ``start + count``, int64 from 0 to 2³² - 1.

    Args:
        key: of the mask; see :func:`merge_assets.methods.formula.mask_key`.
        start: first flat index.
        count: how many.
        device: where they are wanted.
    """
    import torch

    low = 0xFFFFFFFF
    before = start % 4
    first = start // 4
    blocks = torch.arange(first, first + (before + count + 3) // 4, device=device)
    c0, c1 = blocks & low, blocks >> 32
    c2, c3 = torch.zeros_like(blocks), torch.zeros_like(blocks)
    k0, k1 = key
    for _ in range(10):
        # Products of 32-bit words wrap around in int64 but keep their bits.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) & low ^ c1 ^ k0, p1 & low, (p0 >> 32) & low ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()[before : before + count]
