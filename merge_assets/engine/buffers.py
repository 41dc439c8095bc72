"""Memory of one worker: anonymous buffers that are used again for every tensor, so that no page is faulted in twice."""

from __future__ import annotations

import ctypes
import mmap


class Buffer:
    """Page-aligned memory outside the Python heap."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    @property
    def size(self) -> int:
        return len(self.view)


class Buffers:
    """Hands out buffers in order; after :meth:`reset` the same ones again."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._taken = 0

    def take(self, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes."""
        if self._taken == len(self._buffers):
            self._buffers.append(Buffer(size))
        elif self._buffers[self._taken].size < size:
            self._buffers[self._taken] = Buffer(size)
        self._taken += 1
        return self._buffers[self._taken - 1]

    def reset(self) -> None:
        """Take all buffers back."""
        self._taken = 0
