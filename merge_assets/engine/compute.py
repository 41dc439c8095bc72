"""One output tensor being computed on the CPU: tiles of the inputs are brought in, the method's formula is run on them.

An input is a range of a shard or, for merges that are folded into one pass, another expression, whose float32 tiles are
computed when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_void_p
from typing import TYPE_CHECKING, Protocol

from merge_assets.checkpoint import DTYPES
from merge_assets.engine.buffers import Buffer, Buffers
from merge_assets.engine.expression import PlannedExpression
from merge_assets.engine.formula import Band, Combination, Cut, Norms, Sparsifier, TaskVectors
from merge_assets.engine.kernel import load_kernel
from merge_assets.engine.native import Inputs
from merge_assets.engine.native.formulas import Run, prepared
from merge_assets.engine.native.statistics import NativeCounter, gram, norms
from merge_assets.engine.selection import VARIANCE, select
from merge_assets.plan import OutputTensor, TensorInput

if TYPE_CHECKING:
    import torch

STATISTICS_TILE = 1 << 18
"""Elements brought in at once for a statistic. Part of the numerics: sums start anew with each."""

BLOCK = 1 << 17
"""Elements of a block that a kernel's own statistics see. Part of the numerics, too."""


class Host(Protocol):
    """The worker that an expression is computed in."""

    @property
    def buffers(self) -> Buffers:
        """Where memory comes from."""
        ...

    def read(self, item: TensorInput, offset: int, memory: memoryview) -> None:
        """Fill memory with the bytes of a stored input from an offset (bytes) on."""
        ...

    def may_hold(self, tensor: OutputTensor) -> bool:
        """Whether all stored inputs may be kept in memory whole, because they are swept more than once."""
        ...

    def use_torch(self) -> None:
        """Called before torch is used, to keep it from starting threads of its own."""
        ...


class _Operand(Protocol):
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
    dtype = "F32"

    def __init__(self, expression: CpuExpression, buffer: Buffer) -> None:
        self._buffer = buffer
        self._expression = expression

    def load(self, start: int, count: int) -> tuple[Buffer, int]:
        self._expression.compute(start, count, self._buffer, self.dtype)
        return self._buffer, 0


class CpuExpression(PlannedExpression):
    """An output tensor as its kernel sees it (:class:`merge_assets.engine.kernel.Expression`), ready to be computed."""

    def __init__(
        self,
        tensor: OutputTensor,
        host: Host,
        tile: int,
        *,
        whole_rows: bool | None = None,
        hold: bool | None = None,
    ) -> None:
        """Take all statistics that the method needs.

        Args:
            tensor: what to compute.
            host: the worker.
            tile: most elements that :meth:`compute` will be asked for, unless a row is longer.
            whole_rows: whether all runs must be whole rows; by default if a method in the expression asks for them.
            hold: whether stored inputs are kept in memory whole; by default what the worker says.
        """
        super().__init__(tensor, whole_rows=whole_rows)
        self._host = host
        self._hold = host.may_hold(tensor) if hold is None else hold
        self.tile = self.aligned(tile)
        room = max(self.tile, self.aligned(STATISTICS_TILE), self.aligned(BLOCK))
        self._operands = [self._operand(item, room) for item in tensor.inputs]
        self._addresses = (c_void_p * self.count)()
        dtypes = [operand.dtype for operand in self._operands]
        self._inputs = Inputs(self._addresses, dtypes, tensor.base)
        self._without_base = Inputs(self._addresses, dtypes, None)
        formula = load_kernel(tensor.method)(self)
        self._run: Run = (
            prepared(formula) if isinstance(formula, (Combination, TaskVectors)) else self._by_torch(formula)
        )

    def _operand(self, item: TensorInput, room: int) -> _Operand:
        if item.nested is None:
            size = item.header.nbytes if self._hold else room * DTYPES[item.header.dtype]
            return _Stored(item, self._host.buffers.take(size), self._host, whole=self._hold)
        inner = CpuExpression(item.nested, self._host, room, whole_rows=self.whole_rows, hold=self._hold)
        return _Nested(inner, self._host.buffers.take(room * DTYPES["F32"]))

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` of the result to the front of ``out``.

        Returns:
            How many of them are NaN or infinite.
        """
        self._load(start, count)
        return self._run(self._inputs, self.row, start, count, out.address, dtype)

    # -- what a kernel sees --------------------------------------------------------------------------------------------

    def gram(self, *, centered: bool = False) -> list[list[float]]:
        if centered:
            return gram(self._sweep, self._inputs, self.count - 1)
        return gram(self._sweep, self._without_base, self.count)

    def select(self, ranks: Sequence[Sequence[int]]) -> list[list[Cut]]:
        wanted = [(vector, k) for vector, of_vector in enumerate(ranks) for k in of_vector]
        cuts = iter(select(NativeCounter(self._sweep, self._inputs), math.prod(self.shape), wanted))
        return [[next(cuts) for _ in of_vector] for of_vector in ranks]

    def select_variance(self, k: int) -> Cut:
        return select(NativeCounter(self._sweep, self._inputs), math.prod(self.shape), [(VARIANCE, k)])[0]

    def norms(self, sparsifiers: Sequence[Sparsifier], common: Band | None = None) -> list[Norms]:
        return norms(self._sweep, self._inputs, self.row, sparsifiers, common)

    def blocks(self, *, rows: bool = False) -> Iterator[tuple[int, list[torch.Tensor]]]:
        self._host.use_torch()
        assert self.whole_rows or not rows, "declare the method with rows=True"
        for start, count in self._runs(BLOCK):
            yield start, self._tiles(count)

    # -- streaming -----------------------------------------------------------------------------------------------------

    def _sweep(self) -> Iterator[tuple[int, int]]:
        return self._runs(STATISTICS_TILE)

    def _runs(self, length: int) -> Iterator[tuple[int, int]]:
        elements, step = math.prod(self.shape), self.aligned(length)
        for start in range(0, elements, step):
            count = min(step, elements - start)
            self._load(start, count)
            yield start, count

    def _load(self, start: int, count: int) -> None:
        self._loaded = [operand.load(start, count) for operand in self._operands]
        for place, (buffer, offset) in enumerate(self._loaded):
            self._addresses[place] = buffer.address + offset

    def _tiles(self, count: int) -> list[torch.Tensor]:
        """What was loaded, for torch."""
        from merge_assets.engine.tiles import as_float32

        return [
            as_float32(buffer.view[offset:], operand.dtype, count)
            for (buffer, offset), operand in zip(self._loaded, self._operands, strict=True)
        ]

    def _by_torch(self, function: Callable[[Sequence[torch.Tensor], int], torch.Tensor]) -> Run:
        from merge_assets.engine.tiles import store

        self._host.use_torch()

        def run(_: Inputs, row: int, start: int, count: int, address: int, dtype: str) -> int:
            return store(function(self._tiles(count), start), address, dtype)

        return run
