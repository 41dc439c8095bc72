"""One output tensor being computed on the CPU: tiles of the inputs are brought in, the method's formula is run on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_void_p
from typing import TYPE_CHECKING, Any

from merge_assets.engine.buffers import Buffer
from merge_assets.engine.native import InputArrays
from merge_assets.engine.native.formulas import RunFormula, prepared
from merge_assets.engine.native.statistics import NativeCounter, gram, norms
from merge_assets.engine.operand import Host, operand
from merge_assets.engine.planned_expression import BLOCK, STATISTICS_TILE, PlannedExpression
from merge_assets.methods import find_method
from merge_assets.methods.formula import Band, Combination, Norms, Sparsifier, TaskVectors
from merge_assets.plan import OutputTensor

if TYPE_CHECKING:
    import torch


class CpuExpression(PlannedExpression):
    """An output tensor as its kernel sees it (:class:`merge_assets.methods.expression.Expression`), ready to be computed."""

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
        self._operands = [
            operand(item, host, room, whole_rows=self.whole_rows, hold=self._hold) for item in tensor.inputs
        ]
        self._addresses = (c_void_p * self.count)()
        dtypes = [operand.dtype for operand in self._operands]
        self._inputs = InputArrays(self._addresses, dtypes, tensor.base)
        self._without_base = InputArrays(self._addresses, dtypes, None)
        formula = find_method(tensor.method).kernel(self)
        self._run: RunFormula = (
            prepared(formula) if isinstance(formula, (Combination, TaskVectors)) else self._by_torch(formula)
        )

    def compute(self, start: int, count: int, out: Buffer, dtype: str) -> int:
        """Write elements ``start`` to ``start + count`` of the result to the front of ``out``.

        Returns:
            How many of them are NaN or infinite.
        """
        self._load(start, count)
        return self._run(self._inputs, self.row, start, count, out.address, dtype)

    # -- what a kernel sees --------------------------------------------------------------------------------------------

    def products(self, *, centered: bool) -> list[list[float]]:
        if centered:
            return gram(self._sweep, self._inputs, self.count - 1)
        return gram(self._sweep, self._without_base, self.count)

    def counter(self) -> NativeCounter:
        return NativeCounter(self._sweep, self._inputs)

    def norms(self, sparsifiers: Sequence[Sparsifier], common: Band | None = None) -> list[Norms]:
        return norms(self._sweep, self._inputs, self.row, sparsifiers, common)

    @property
    def arrays(self) -> Any:
        import torch

        self._host.use_torch()
        return torch

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

    def _by_torch(self, function: Callable[[Sequence[torch.Tensor], int], torch.Tensor]) -> RunFormula:
        from merge_assets.engine.tiles import store

        self._host.use_torch()

        def run(_: InputArrays, row: int, start: int, count: int, address: int, dtype: str) -> int:
            return store(function(self._tiles(count), start), address, dtype)

        return run
