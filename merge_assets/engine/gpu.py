"""One output tensor being computed on a GPU: the same expressions as :mod:`merge_assets.engine.compute`, in torch.

Tiles go through pinned memory. Every worker has a stream of its own, so that one worker's reads and writes, another's
transfers and a third's arithmetic overlap. Arithmetic over models is float64 as on the CPU; masks and cuts are those of
the CPU bit for bit, sums may differ in their last bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from merge_assets.checkpoint import DTYPES, TORCH_NAMES
from merge_assets.engine.planned_expression import PlannedExpression
from merge_assets.engine.selection import VARIANCE
from merge_assets.engine.torch_counter import TorchCounter
from merge_assets.engine.torch_sparsify import sparsify, spread
from merge_assets.engine.witness import Evidence
from merge_assets.engine.worker import Job, Shared
from merge_assets.methods import find_method
from merge_assets.methods.formula import Band, Combination, Norms, Sparsifier, TaskVectors
from merge_assets.plan import OutputTensor, TensorInput

TILE = 1 << 23
"""Elements per tile, of results and of statistics; part of the numerics of this device."""


class GpuWorker:
    """Computes jobs on a torch device."""

    def __init__(self, shared: Shared, device: torch.device) -> None:
        self.shared = shared
        self.device = device
        self.read = 0
        self.label = ""
        self.evidence = Evidence((), None)
        self._pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._pinned else None  # type: ignore[no-untyped-call]
        self._staging: dict[str, torch.Tensor] = {}

    def compute(self, job: Job) -> None:
        """Compute and write the elements of one job."""
        tensor, shared = job.tensor, self.shared
        self.label, self.read, self.evidence = tensor.name, 0, shared.begin(job)
        with torch.cuda.stream(self._stream):
            expression = GpuExpression(tensor, self)
            output, nonfinite = shared.outputs[tensor.shard], 0
            dtype, width = getattr(torch, TORCH_NAMES[tensor.dtype]), DTYPES[tensor.dtype]
            step = expression.aligned(TILE)
            for start in range(job.start, job.end, step):
                count = min(step, job.end - start)
                result = expression.compute(start, count).to(dtype)
                nonfinite += int((~torch.isfinite(result)).sum())
                staged = self.staging("out", count * width)
                staged.copy_(result.view(torch.uint8), non_blocking=True)
                self.synchronize()
                output.write(_memory(staged), tensor.begin + start * width)
                self.evidence.wrote(_memory(staged))
        shared.finish(job, self.read, nonfinite, expression.geometry, self.evidence)

    def staging(self, purpose: str, size: int) -> torch.Tensor:
        """Pinned memory of ``size`` bytes that is used again for the same purpose."""
        found = self._staging.get(purpose)
        if found is None or found.numel() < size:
            found = self._staging[purpose] = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
        return found[:size]

    def synchronize(self) -> None:
        """Wait for all that this worker has started."""
        if self._stream is not None:
            self._stream.synchronize()

    def load(self, item: TensorInput, start: int, count: int, place: str) -> torch.Tensor:
        """Elements of a stored input as float32 on the device; ``place`` tells the inputs of one tile apart."""
        width = DTYPES[item.header.dtype]
        staged = self.staging(place, count * width)
        path, begin = self.shared.place(item)
        self.shared.inputs.read_into(path, _memory(staged), begin + start * width)
        self.evidence.saw(item, start * width, _memory(staged))
        self.read += count * width
        self.shared.advance(count * width, self.label)
        raw = staged.to(self.device, non_blocking=True, copy=True)
        return raw.view(getattr(torch, TORCH_NAMES[item.header.dtype])).to(torch.float32)


class GpuExpression(PlannedExpression):
    """An output tensor as its kernel sees it (:class:`merge_assets.methods.expression.Expression`), ready to be computed."""

    def __init__(
        self, tensor: OutputTensor, host: GpuWorker, place: str = "in", *, whole_rows: bool | None = None
    ) -> None:
        """Take all statistics that the method needs.

        Args:
            tensor: what to compute.
            host: the worker.
            place: tells nested expressions apart.
            whole_rows: whether all runs must be whole rows; by default if a method in the expression asks for them.
        """
        super().__init__(tensor, whole_rows=whole_rows)
        self._host = host
        self._places = [f"{place} {number}" for number in range(self.count)]
        self._nested = [
            None if item.nested is None else GpuExpression(item.nested, host, inner, whole_rows=self.whole_rows)
            for item, inner in zip(tensor.inputs, self._places, strict=True)
        ]
        self._formula = find_method(tensor.method).kernel(self)

    def compute(self, start: int, count: int) -> torch.Tensor:
        """Elements ``start`` to ``start + count`` of the result, float32 or float64, on the device."""
        tiles = self._tiles(start, count)
        if isinstance(self._formula, Combination):
            return _combine(self._formula, tiles)
        if isinstance(self._formula, TaskVectors):
            assert self.base is not None
            sparse = self._sparse(tiles, self._formula.sparsifiers, self._formula.common, start)
            return _mix(self._formula, tiles[self.base], sparse)
        return self._formula(tiles, start)

    def products(self, *, centered: bool) -> list[list[float]]:
        products: torch.Tensor | None = None
        for _, tiles in self.blocks():
            vectors = torch.stack([tile.double() for tile in tiles])
            if centered:
                assert self.base is not None
                others = [place for place in range(self.count) if place != self.base]
                vectors = vectors[others] - vectors[self.base]
            part = vectors @ vectors.T
            products = part if products is None else products + part
        size = self.count - centered
        return [[0.0] * size for _ in range(size)] if products is None else products.tolist()

    def counter(self) -> TorchCounter:
        return TorchCounter(self._sources)

    def norms(self, sparsifiers: Sequence[Sparsifier], common: Band | None = None) -> list[Norms]:
        totals = torch.zeros(len(sparsifiers), 3, dtype=torch.float64, device=self._host.device)
        for start, tiles in self.blocks():
            dense = torch.stack([d.double().abs().sum() for d in self._deltas(tiles)])
            sparse = [d.double() for d in self._sparse(tiles, sparsifiers, common, start)]
            absolute = torch.stack([d.abs().sum() for d in sparse])
            totals += torch.stack((dense, absolute, torch.stack([d.dot(d) for d in sparse])), dim=1)
        return [Norms(*row) for row in totals.tolist()]

    @property
    def arrays(self) -> Any:
        return torch

    def blocks(self, *, rows: bool = False) -> Iterator[tuple[int, list[torch.Tensor]]]:
        assert self.whole_rows or not rows, "declare the method with rows=True"
        elements, step = math.prod(self.shape), self.aligned(TILE)
        for start in range(0, elements, step):
            yield start, self._tiles(start, min(step, elements - start))

    def _tiles(self, start: int, count: int) -> list[torch.Tensor]:
        tiles = [
            self._host.load(item, start, count, place) if nested is None else nested.compute(start, count).float()
            for item, nested, place in zip(self.tensor.inputs, self._nested, self._places, strict=True)
        ]
        self._host.synchronize()  # the staging memory is filled again for the next tile
        return tiles

    def _deltas(self, tiles: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        assert self.base is not None
        return [tile - tiles[self.base] for place, tile in enumerate(tiles) if place != self.base]

    def _sources(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for start, tiles in self.blocks():
            deltas = self._deltas(tiles)
            yield start, [spread(deltas) if source == VARIANCE else deltas[source] for source in wanted]

    def _sparse(
        self, tiles: Sequence[torch.Tensor], sparsifiers: Sequence[Sparsifier], common: Band | None, start: int
    ) -> list[torch.Tensor]:
        deltas = self._deltas(tiles)
        if common is not None:
            by = spread(deltas)
            deltas = [sparsify(common, d, by, start, self.row) for d in deltas]
        return [sparsify(s, d, d, start, self.row) for s, d in zip(sparsifiers, deltas, strict=True)]


def _combine(formula: Combination, tiles: Sequence[torch.Tensor]) -> torch.Tensor:
    total = tiles[0].double() * formula.coefficients[0]
    for coefficient, tile in zip(formula.coefficients[1:], tiles[1:], strict=True):
        total += tile.double() * coefficient
    return total


def _mix(formula: TaskVectors, base: torch.Tensor, sparse: Sequence[torch.Tensor]) -> torch.Tensor:
    weighted = [d.double() * factor for d, factor in zip(sparse, formula.factors, strict=True)]
    divisor: torch.Tensor | float
    if formula.votes is None:
        total = _sum(weighted)
        divisor = sum(formula.weights) or 1.0
    else:
        vote = _sum([d.double() * v for d, v in zip(sparse, formula.votes, strict=True)]) >= 0
        signed = [torch.where(vote, x, -x) for x in weighted]
        total = _sum([torch.where(s <= 0, 0.0, x) for s, x in zip(signed, weighted, strict=True)])
        divisor = _sum([(~(s <= 0)).double() * w for s, w in zip(signed, formula.weights, strict=True)])
        divisor = torch.where(divisor == 0, 1.0, divisor)
    if formula.normalize:
        total = total / divisor
    return base.double() + formula.factor * total


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total


def _memory(values: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    return memoryview(values.numpy())  # type: ignore[arg-type]
