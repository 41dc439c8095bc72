"""The interface between the executor and a merge method.

A method's kernel is a function ``kernel(expression) -> formula``. It may first ask for statistics of the whole tensors
(``gram``, ``select``, ``norms``, or its own over ``blocks``). What it returns is one of the formulas of
:mod:`merge_assets.engine.formula`, which the engine computes by itself, or a tile function in torch, which is called for
tiles of any size, in any order, and must give every element the same value whatever the tiles are.

    def linear(expression: Expression) -> Combination:
        return Combination(expression.per_model("weight"))
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

from merge_assets.engine.formula import Band, Combination, Cut, Norms, Sparsifier, TaskVectors
from merge_assets.plan import find_method

if TYPE_CHECKING:
    import torch

TileFunction = Callable[[Sequence["torch.Tensor"], int], "torch.Tensor"]
"""(float32 tiles of the inputs in recipe order, all 1-D of one length; flat index of their first element) -> tile of the
output, float32 or float64. The inputs may be overwritten. Tiles of a method declared with ``rows`` are whole rows."""

Formula = Combination | TaskVectors | TileFunction


class Expression(Protocol):
    """One output tensor as a kernel sees it. Every statistic streams over the inputs and is the same in every run."""

    @property
    def name(self) -> str:
        """Name of the output tensor."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output and of every input."""
        ...

    @property
    def row(self) -> int:
        """Elements of a row, which is the last dimension; a scalar is a row of one."""
        ...

    @property
    def count(self) -> int:
        """Number of inputs, the base included."""
        ...

    @property
    def base(self) -> int | None:
        """Position of the base among the inputs."""
        ...

    @property
    def parameters(self) -> Mapping[str, float | bool | str]:
        """Whole-method parameters; with the recipe's ``seed`` for methods declared ``random``."""
        ...

    def per_model(self, name: str) -> list[float]:
        """A per-model parameter of every input but the base, in recipe order."""
        ...

    def optional(self, name: str) -> list[float | None]:
        """Like :meth:`per_model`, with ``None`` where the recipe gives no value."""
        ...

    def gram(self, *, centered: bool = False) -> list[list[float]]:
        """Inner products of all pairs of inputs, or, ``centered``, of all pairs of differences to the base; float64."""
        ...

    def select(self, ranks: Sequence[Sequence[int]]) -> list[list[Cut]]:
        """For every task vector, the cuts that hold its ``k`` largest magnitudes, for each ``k`` of its ranks."""
        ...

    def select_variance(self, k: int) -> Cut:
        """The ``k`` elements with the largest variance over the task vectors."""
        ...

    def norms(self, sparsifiers: Sequence[Sparsifier], common: Band | None = None) -> list[Norms]:
        """Norms of every task vector before and after its sparsifier."""
        ...

    def blocks(self, *, rows: bool = False) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """One pass over the inputs: (flat index of the first element, 1-D float32 blocks in recipe order).

        Block borders are the same in every run, so that sums over blocks are, too; with ``rows`` a block holds whole
        rows of the last dimension. A block is valid until the next.
        """
        ...


Kernel = Callable[[Expression], Formula]


@cache
def load_kernel(method: str) -> Kernel:
    """The kernel of a method, imported on first use."""
    module, _, name = find_method(method).kernel.partition(":")
    kernel: Kernel = getattr(importlib.import_module(module), name)
    return kernel
