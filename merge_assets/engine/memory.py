"""How large tiles are: what the workers' buffers may take, here and on GPUs, and how it shows that there is no more."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from merge_assets.checkpoint import DTYPES
from merge_assets.engine.planned_expression import STATISTICS_TILE
from merge_assets.plan import OutputTensor

MEMORY = 256_000_000
"""Default bound of all workers' buffers, bytes."""

TILE = 1 << 18
"""Elements per tile on the CPU: bfloat16 tiles of two inputs and a result stay in an L2 cache of 2 MiB."""

GPU_TILE = 1 << 23
"""Elements per tile on a GPU, where there is room: less, and starting its many small operations takes most of the time."""

_SHARE = 0.5
"""Of a GPU's free memory that tiles may take; others use it, too, and torch rounds what it takes up."""

_OF_METHOD, _OF_INPUT = 120, 40
"""Bytes on a GPU for each element of a tile: whatever the method, and for each input; tests/engine/test_memory.py measures."""


@dataclass(frozen=True)
class Room:
    """What each worker may take.

    Attributes:
        tile: elements per tile on the CPU.
        hold: bytes of input tensors that may be kept in memory there.
        gpu_tile: elements per tile on a GPU.
    """

    tile: int
    hold: int
    gpu_tile: int = GPU_TILE


def cpu_room(tensors: Sequence[OutputTensor], preferred: int, workers: int, memory: int) -> Room:
    """Tiles, and tensors kept, of CPU workers.

    Args:
        tensors: what is computed.
        preferred: elements per tile, if there is room.
        workers: how many.
        memory: bytes for all of them.
    """
    widest = max((len(list(tensor.files())) for tensor in tensors), default=1)
    share = memory // workers
    element = 8 * (widest + 1)  # the widest dtype has 8 bytes; there is one buffer for each input and for the result
    tile = max(1024, min(preferred, share // element))
    return Room(tile, share - tile * element)


def gpu_tiles(
    tensors: Sequence[OutputTensor], preferred: int, workers: int, memory: int, free: Sequence[int]
) -> tuple[int, int]:
    """How many workers compute on GPUs, and elements per tile of each.

    Tiles are made smaller to keep the bounds, down to the run of a statistic; beyond that there are fewer workers.

    Args:
        tensors: what is computed.
        preferred: elements per tile, if there is room.
        workers: the most workers.
        memory: bytes for all pinned memory, through which tiles come and go.
        free: bytes of each GPU that are free.
    """
    staged = max((DTYPES[t.dtype] + sum(DTYPES[i.header.dtype] for i in t.files()) for t in tensors), default=8)
    computed = max((bytes_on_gpu(tensor) for tensor in tensors), default=_OF_METHOD)
    shares = [int(each * _SHARE) for each in free]
    fitting = sum(share // (computed * STATISTICS_TILE) for share in shares)
    workers = max(1, min(workers, fitting, memory // (staged * STATISTICS_TILE)))
    on_each = -(-workers // len(free))
    tile = min(preferred, memory // (workers * staged), min(shares) // (on_each * computed))
    return workers, max(tile, STATISTICS_TILE)


def bytes_on_gpu(tensor: OutputTensor) -> int:
    """The most that computing an output takes on a GPU for each element of a tile."""
    return _OF_METHOD + _OF_INPUT * len(list(tensor.files()))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, here or on a GPU, for which torch has several."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "allocate memory" in said)
    )
