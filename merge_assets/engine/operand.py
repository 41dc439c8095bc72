"""The inputs of an expression on the CPU: ranges of shards, and expressions whose tiles are computed when asked for.

Most inner expressions are merges of a folded recipe. Others *make* an input out of tensors of other shapes: rows gathered
for another vocabulary, an adapter applied, a quantised weight dequantised; see :mod:`merge_assets.engine.nested`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from merge_assets.checkpoint import DTYPES
from merge_assets.engine.buffers import Buffer, Buffers
from merge_assets.plan import OutputTensor, TensorInput

if TYPE_CHECKING:
    import numpy as np


class Host(Protocol):
    """The worker that an expression is computed in."""

    @property
    def buffers(self) -> Buffers:
        """Where memory comes from."""
        ...

    def read(self, item: TensorInput, offset: int, memory: memoryview) -> None:
        """Fill memory with the bytes of a stored input from an offset (bytes) on."""
        ...

    def read_pieces(self, item: TensorInput, pieces: np.ndarray, memory: Buffer) -> None:
        """Fill places of memory with pieces of a stored input: offsets, lengths and places in bytes, int64, (3, n)."""
        ...

    def may_hold(self, tensor: OutputTensor) -> bool:
        """Whether all stored inputs may be kept in memory whole, because they are swept more than once."""
        ...

    def nested(self, tensor: OutputTensor, room: int, *, whole_rows: bool, hold: bool) -> Computed:
        """An expression that is an input of another one, ready to be computed; see :func:`operand` for the arguments."""
        ...

    def use_torch(self) -> None:
        """Called before torch is used, to keep it from starting threads of its own."""
        ...


class Computed(Protocol):
    """An expression that can be an input."""

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` to the front of ``out``; the NaN and infinite ones are counted."""
        ...


class Operand(Protocol):
    """One input of an expression."""

    @property
    def dtype(self) -> str: ...

    def load(self, start: int, count: int) -> tuple[Buffer, int]:
        """Bring elements ``start`` to ``start + count`` into memory: a buffer, and the offset of the first in it."""
        ...


class _Stored:
    """An input in a file. Where the whole tensor fits into the buffer, it is read once however often it is swept."""

    def __init__(self, item: TensorInput, buffer: Buffer, host: Host, *, whole: bool) -> None:
        self.dtype = item.header.dtype
        self._item = item
        self._buffer = buffer
        self._host = host
        self._whole = whole
        self._held = 0
        self._width = DTYPES[self.dtype]

    def load(self, start: int, count: int) -> tuple[Buffer, int]:
        begin, end = start * self._width, (start + count) * self._width
        if not self._whole:
            self._host.read(self._item, begin, self._buffer.view[: end - begin])
            return self._buffer, 0
        if end > self._held:  # sweeps go from the beginning to the end
            self._host.read(self._item, self._held, self._buffer.view[self._held : end])
            self._held = end
        return self._buffer, begin


class _Nested:
    """An input that is computed: an expression of a folded recipe, or one that makes an input."""

    dtype = "F32"

    def __init__(self, expression: Computed, buffer: Buffer) -> None:
        self._buffer = buffer
        self._expression = expression

    def load(self, start: int, count: int) -> tuple[Buffer, int]:
        self._expression.compute(start, count, self._buffer, self.dtype)
        return self._buffer, 0


def operand(item: TensorInput, host: Host, room: int, *, whole_rows: bool, hold: bool) -> Operand:
    """An input, ready to be loaded.

    Args:
        item: the input.
        host: the worker.
        room: most elements that will be asked for at once.
        whole_rows: whether runs are whole rows.
        hold: whether stored inputs are kept in memory whole.
    """
    if item.nested is None:
        size = item.header.nbytes if hold else room * DTYPES[item.header.dtype]
        return _Stored(item, host.buffers.take(size), host, whole=hold)
    nested = host.nested(item.nested, room, whole_rows=whole_rows, hold=hold)
    return _Nested(nested, host.buffers.take(room * DTYPES["F32"]))
