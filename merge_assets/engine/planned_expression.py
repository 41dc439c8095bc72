"""What every expression tells a kernel about its tensor, whatever it is computed on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from merge_assets.engine.selection import VARIANCE, Counter, select
from merge_assets.methods.expression import Tensor
from merge_assets.methods.formula import Cut
from merge_assets.methods.span import norms_and_directions
from merge_assets.plan import OutputTensor
from merge_assets.records import Geometry

STATISTICS_TILE = 1 << 18
"""Elements of a run of a statistic. Part of the numerics: chunks of sums start anew with each."""

BLOCK = 1 << 17
"""Elements of a block that a kernel's own statistics see. Part of the numerics, too."""


class PlannedExpression(ABC):
    """The part of :class:`merge_assets.methods.expression.Expression` that is the same on every device.

    Attributes:
        geometry: how the inputs lie to each other, if the kernel asked for their inner products.
    """

    def __init__(self, tensor: OutputTensor, *, whole_rows: bool | None = None) -> None:
        """Describe a tensor.

        Args:
            tensor: what to compute.
            whole_rows: whether all runs must be whole rows; by default if a method in the expression asks for them.
        """
        self.tensor = tensor
        self.row = tensor.shape[-1] if tensor.shape else 1
        self.whole_rows = needs_rows(tensor) if whole_rows is None else whole_rows
        self.geometry: Geometry | None = None

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def count(self) -> int:
        return len(self.tensor.inputs)

    @property
    def base(self) -> int | None:
        return self.tensor.base

    @property
    def parameters(self) -> Mapping[str, float | bool | str]:
        return self.tensor.parameters

    def per_model(self, name: str) -> list[float]:
        return [float(i.parameters[name]) for place, i in enumerate(self.tensor.inputs) if place != self.tensor.base]

    def optional(self, name: str) -> list[float | None]:
        found = [i.parameters.get(name) for place, i in enumerate(self.tensor.inputs) if place != self.tensor.base]
        return [None if value is None else float(value) for value in found]

    def gram(self, *, centered: bool = False) -> list[list[float]]:
        products = self.products(centered=centered)
        self.geometry = _geometry(products, centered=centered)
        return products

    @abstractmethod
    def products(self, *, centered: bool) -> list[list[float]]:
        """What :meth:`gram` gives, swept on the device of the expression."""

    def select(self, ranks: Sequence[Sequence[int]]) -> list[list[Cut]]:
        wanted = [(vector, k) for vector, of_vector in enumerate(ranks) for k in of_vector]
        cuts = iter(select(self.counter(), self.tensor.elements, wanted))
        return [[next(cuts) for _ in of_vector] for of_vector in ranks]

    def select_variance(self, k: int) -> Cut:
        return select(self.counter(), self.tensor.elements, [(VARIANCE, k)])[0]

    def quantiles(self, values: Callable[[], Iterator[Tensor]], shares: Sequence[float]) -> list[float]:
        from merge_assets.engine.quantiles import quantiles

        return quantiles(values, self.tensor.elements, shares)

    @abstractmethod
    def counter(self) -> Counter:
        """What counts magnitudes on the device of the expression."""

    def aligned(self, length: int) -> int:
        """The most elements up to ``length`` that are whole rows, if they must be; one row at least."""
        return max(1, length // self.row) * self.row if self.whole_rows and self.row else length


def _geometry(products: Sequence[Sequence[float]], *, centered: bool) -> Geometry | None:
    """Norms and cosines; ``None`` where an input holds NaN or infinities."""
    norms, directions = norms_and_directions(products)
    cosines = [cosine for place, row in enumerate(directions) for cosine in row[place + 1 :]]
    if not all(map(math.isfinite, (*norms, *cosines))):
        return None
    return Geometry(of="task vectors" if centered else "inputs", norms=tuple(norms), cosines=tuple(cosines))


def needs_rows(tensor: OutputTensor) -> bool:
    """Whether a method in the expression asks for whole rows."""
    own = tensor.declaration is not None and tensor.declaration.rows
    return own or any(i.nested is not None and needs_rows(i.nested) for i in tensor.inputs)
