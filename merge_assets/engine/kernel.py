"""The interface between the executor and a merge method.

A method's kernel is a function ``kernel(expression) -> tile function``. The kernel may first stream over the inputs to
take statistics of the whole tensor (``expression.blocks()``); the tile function it returns is then called for tiles of
any size, in any order, and must give every element the same value whatever the tiles are.

    def linear(expression: Expression) -> TileFunction:
        weights = expression.per_model("weight")
        def tile(inputs, start):
            return sum(w * x for w, x in zip(weights, inputs))
        return tile
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol

import torch

from merge_assets.plan import find_method

TileFunction = Callable[[Sequence[torch.Tensor], int], torch.Tensor]
"""(float32 tiles of the inputs in recipe order, all 1-D of one length; flat index of their first element) -> float32
tile of the output. The inputs may be overwritten."""


class Expression(Protocol):
    """One output tensor as a kernel sees it."""

    @property
    def name(self) -> str:
        """Name of the output tensor."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output and of every input."""
        ...

    @property
    def base(self) -> int | None:
        """Position of the base among the inputs."""
        ...

    @property
    def parameters(self) -> Mapping[str, float | bool]:
        """Whole-method parameters."""
        ...

    def per_model(self, name: str) -> list[float]:
        """A per-model parameter of every input but the base, in recipe order."""
        ...

    def optional(self, name: str) -> list[float | None]:
        """Like :meth:`per_model`, with ``None`` where the recipe gives no value."""
        ...

    def blocks(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """One pass over the inputs: (flat index of the first element, float32 blocks in recipe order).

        Block borders are the same in every run, so that sums over blocks are, too. A block is valid until the next.
        """
        ...


Kernel = Callable[[Expression], TileFunction]


@cache
def load_kernel(method: str) -> Kernel:
    """The kernel of a method, imported on first use."""
    module, _, function = find_method(method).kernel.partition(":")
    kernel: Kernel = getattr(importlib.import_module(module), function)
    return kernel


def deltas(inputs: Sequence[torch.Tensor], base: int) -> list[torch.Tensor]:
    """Differences of the other inputs to the base, float32, in recipe order."""
    return [x - inputs[base] for position, x in enumerate(inputs) if position != base]
