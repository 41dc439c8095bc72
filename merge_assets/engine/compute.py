"""One output tensor being computed on the CPU: tiles of the inputs are brought in, the method's formula is run on them.

An input is a range of a shard or, for merges that are folded into one pass, another expression, whose float32 tiles are
computed when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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

    def use_torch(self) -> None:
        """Called before torch is used, to keep it from starting threads of its own."""
        ...


class _Operand(Protocol):
    """One input of an expression."""

    @property
    def dtype(self) -> str: ...

    @property
    def buffer(self) -> Buffer: ...

    def load(self, start: int, count: int) -> None:
        """Bring elements ``start`` to ``start + count`` into the buffer."""
        ...


class _Stored:
    def __init__(self, item: TensorInput, buffer: Buffer, host: Host) -> None:
        self.dtype = item.header.dtype
        self.buffer = buffer
        self._item = item
        self._host = host
        self._width = DTYPES[self.dtype]

    def load(self, start: int, count: int) -> None:
        self._host.read(self._item, start * self._width, self.buffer.view[: count * self._width])


class _Nested:
    dtype = "F32"

    def __init__(self, expression: CpuExpression, buffer: Buffer) -> None:
        self.buffer = buffer
        self._expression = expression

    def load(self, start: int, count: int) -> None:
        self._expression.compute(start, count, self.buffer, self.dtype)


class CpuExpression(PlannedExpression):
    """An output tensor as its kernel sees it (:class:`merge_assets.engine.kernel.Expression`), ready to be computed."""

    def __init__(self, tensor: OutputTensor, host: Host, tile: int, *, whole_rows: bool | None = None) -> None:
        """Take all statistics that the method needs.

        Args:
            tensor: what to compute.
            host: the worker.
            tile: most elements that :meth:`compute` will be asked for, unless a row is longer.
            whole_rows: whether all runs must be whole rows; by default if a method in the expression asks for them.
        """
        super().__init__(tensor, whole_rows=whole_rows)
        self._host = host
        self.tile = self.aligned(tile)
        room = max(self.tile, self.aligned(STATISTICS_TILE), self.aligned(BLOCK))
        self._operands = [self._operand(item, room) for item in tensor.inputs]
        addresses, dtypes = [o.buffer.address for o in self._operands], [o.dtype for o in self._operands]
        self._inputs = Inputs(addresses, dtypes, tensor.base)
        self._without_base = Inputs(addresses, dtypes, None)
        formula = load_kernel(tensor.method)(self)
        self._run: Run = (
            prepared(formula) if isinstance(formula, (Combination, TaskVectors)) else self._by_torch(formula)
        )

    def _operand(self, item: TensorInput, room: int) -> _Operand:
        if item.nested is None:
            return _Stored(item, self._host.buffers.take(room * DTYPES[item.header.dtype]), self._host)
        inner = CpuExpression(item.nested, self._host, room, whole_rows=self.whole_rows)
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
        from merge_assets.engine.tiles import as_float32

        self._host.use_torch()
        assert self.whole_rows or not rows, "declare the method with rows=True"
        for start, count in self._runs(BLOCK):
            yield start, [as_float32(o.buffer, o.dtype, count) for o in self._operands]

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
        for operand in self._operands:
            operand.load(start, count)

    def _aligned(self, length: int) -> int:
        return max(1, length // self.row) * self.row if self.whole_rows and self.row else length

    def _by_torch(self, function: Callable[[Sequence[torch.Tensor], int], torch.Tensor]) -> Run:
        from merge_assets.engine.tiles import as_float32, store

        self._host.use_torch()

        def run(_: Inputs, row: int, start: int, count: int, address: int, dtype: str) -> int:
            tiles = [as_float32(o.buffer, o.dtype, count) for o in self._operands]
            return store(function(tiles, start), address, dtype)

        return run
