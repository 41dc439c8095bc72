"""The interface between the engine and a merge method.

A method's kernel is a function ``kernel(expression) -> formula``. It may first ask for statistics of the whole tensors
(``gram``, ``select``, ``norms``, ``quantiles``, or its own over ``blocks``). What it returns is one of the formulas of
:mod:`merge_assets.methods.formula`, which the engine computes by itself, or a tile function, which is called for tiles of
any size, in any order, and must give every element the same value whatever the tiles are.

Tiles and blocks are tensors of torch, which no method imports: what a tensor has no function of its own for is in
``expression.arrays``.

    def linear(expression: Expression) -> Combination:
        return Combination(expression.per_model("weight"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from merge_assets.methods.formula import Band, Combination, Cut, Norms, Sparsifier, TaskVectors

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    Tensor = Any

TileFunction = Callable[[Sequence[Tensor], int], Tensor]
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

    def quantiles(self, values: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> list[float]:
        """The values below which the shares of all elements lie: of n elements in order that of index ⌊share·(n-1)⌋.

        Args:
            values: starts a pass over a float32 value for every element, none negative, as 1-D tensors; called twice.
            shares: 0 to 1.
        """
        ...

    @property
    def arrays(self) -> Any:
        """The library of the tensors that tiles and blocks are: the module ``torch``, with all that it has."""
        ...

    def blocks(self, *, rows: bool = False) -> Iterator[tuple[int, list[Tensor]]]:
        """One pass over the inputs: (flat index of the first element, 1-D float32 blocks in recipe order).

        Block borders are the same in every run, so that sums over blocks are, too; with ``rows`` a block holds whole
        rows of the last dimension. A block is valid until the next.
        """
        ...


Kernel = Callable[[Expression], Formula]
