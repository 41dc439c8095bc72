"""One output tensor being computed on a GPU: the same expressions as :mod:`merge_assets.engine.compute`, in torch.

Tiles go through pinned memory. Every worker has a stream of its own, so that one worker's reads and writes, another's
transfers and a third's arithmetic overlap. The bytes are those of the CPU: sums are taken in its order, results are rounded as
there, and of torch only operations are used that IEEE 754 rounds correctly, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from merge_assets.checkpoint import DTYPES, TORCH_NAMES
from merge_assets.engine.memory import Room, out_of_memory
from merge_assets.engine.planned_expression import BLOCK, STATISTICS_TILE, PlannedExpression
from merge_assets.engine.rounding import rounded
from merge_assets.engine.selection import VARIANCE
from merge_assets.engine.torch_counter import TorchCounter
from merge_assets.engine.torch_sparsify import sparsify, spread
from merge_assets.engine.torch_sums import Sum
from merge_assets.engine.witness import Evidence
from merge_assets.engine.worker import CpuWorker, Job, Shared
from merge_assets.methods import find_method
from merge_assets.methods.formula import Band, Combination, Norms, RankedBernoulli, Sparsifier, TaskVectors
from merge_assets.methods.rows import total
from merge_assets.plan import OutputTensor, TensorInput


class GpuWorker:
    """Computes jobs on a torch device. What finds no room there is tried in smaller tiles, then computed on the CPU."""

    def __init__(self, shared: Shared, device: torch.device, room: Room) -> None:
        """Take part in an execution.

        Args:
            shared: the execution.
            device: where to compute.
            room: what may be taken here and there; statistics take their runs whole, also where a tile is less.
        """
        self.shared = shared
        self.device = device
        self.tile = room.gpu_tile
        self.read = 0
        self.label = ""
        self.evidence = Evidence((), None)
        self._room = room
        self._pinned = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._pinned else None  # type: ignore[no-untyped-call]
        self._staging: dict[str, torch.Tensor] = {}
        shared.use_torch()

    def compute(self, job: Job) -> None:
        """Compute and write the elements of one job."""
        while not self._found_room(job):
            self.shared.advance(0, job.tensor.name, needless=-self.read)  # it is read again
            if self.tile <= STATISTICS_TILE:  # below it, statistics would take no less
                CpuWorker(self.shared, self._room.tile, self._room.hold).compute(job)
                return
            self.tile = max(STATISTICS_TILE, self.tile // 2)

    def _found_room(self, job: Job) -> bool:
        """Compute a job, or give all memory back and say so."""
        try:
            self._compute(job)
            return True
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        self._staging.clear()
        if self._pinned:
            torch.cuda.empty_cache()
        return False

    def _compute(self, job: Job) -> None:
        tensor, shared = job.tensor, self.shared
        self.label, self.read, self.evidence = tensor.name, 0, shared.begin(job)
        with torch.cuda.stream(self._stream):
            expression = GpuExpression(tensor, self)
            output, nonfinite, width = shared.outputs[tensor.shard], 0, DTYPES[tensor.dtype]
            step = expression.aligned(self.tile)
            for start in range(job.start, job.end, step):
                count = min(step, job.end - start)
                result, bad = rounded(expression.compute(start, count), tensor.dtype)
                nonfinite += bad
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
        """Elements of a stored input on the device, float64 if they are stored so, else float32.

        ``place`` tells the inputs of one tile apart.
        """
        width = DTYPES[item.header.dtype]
        staged = self.staging(place, count * width)
        path, begin = self.shared.place(item)
        self.shared.inputs.read_into(path, _memory(staged), begin + start * width)
        self.evidence.saw(item, start * width, _memory(staged))
        self.read += count * width
        self.shared.advance(count * width, self.label)
        raw = staged.to(self.device, non_blocking=True, copy=True).view(getattr(torch, TORCH_NAMES[item.header.dtype]))
        return raw if raw.dtype == torch.float64 else raw.to(torch.float32)


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
            return _mix(self._formula, tiles[self.base].float(), sparse)
        return self._formula([tile.float() for tile in tiles], start)

    def products(self, *, centered: bool) -> list[list[float]]:
        size = self.count - centered
        sums = {(a, b): Sum() for a in range(size) for b in range(a, size)}
        for _, tiles in self._sweep(STATISTICS_TILE):
            vectors = [tile.double() for tile in tiles]
            if centered:
                assert self.base is not None
                base = vectors.pop(self.base)
                vectors = [vector - base for vector in vectors]
            for (a, b), found in sums.items():
                found.add(vectors[a] * vectors[b], self.aligned(STATISTICS_TILE))
        return [[sums[min(a, b), max(a, b)].value for b in range(size)] for a in range(size)]

    def counter(self) -> TorchCounter:
        return TorchCounter(self._sources)

    def norms(self, sparsifiers: Sequence[Sparsifier], common: Band | None = None) -> list[Norms]:
        ranked = any(isinstance(sparsifier, RankedBernoulli) for sparsifier in sparsifiers)
        run = self.row if ranked else self.aligned(STATISTICS_TILE)
        sums = [(Sum(), Sum(), Sum()) for _ in sparsifiers]
        for start, tiles in self._sweep(STATISTICS_TILE):
            sparse = self._sparse(tiles, sparsifiers, common, start)
            for (dense_l1, l1, l2_squared), dense, kept in zip(sums, self._deltas(tiles), sparse, strict=True):
                dense_l1.add(dense.double().abs(), run)
                l1.add(kept.double().abs(), run)
                l2_squared.add(kept.double() * kept.double(), run)
        return [Norms(*(found.value for found in of_vector)) for of_vector in sums]

    @property
    def arrays(self) -> Any:
        return torch

    def blocks(self, *, rows: bool = False) -> Iterator[tuple[int, list[torch.Tensor]]]:
        assert self.whole_rows or not rows, "declare the method with rows=True"
        step = self.aligned(BLOCK)
        for start, tiles in self._sweep(BLOCK):
            for first in range(0, tiles[0].numel(), step):
                yield start + first, [tile[first : first + step].float() for tile in tiles]

    def _sweep(self, length: int) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """All tiles in order, each a whole number of runs of ``length`` elements (of whole rows), but for the last."""
        elements, run = math.prod(self.shape), self.aligned(length)
        step = max(1, self._host.tile // run) * run
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
        base = tiles[self.base].float()
        return [tile.float() - base for place, tile in enumerate(tiles) if place != self.base]

    def _sources(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for start, tiles in self._sweep(STATISTICS_TILE):
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
    return _sum([tile.double() * factor for tile, factor in zip(tiles, formula.coefficients, strict=True)])


def _mix(formula: TaskVectors, base: torch.Tensor, sparse: Sequence[torch.Tensor]) -> torch.Tensor:
    weighted = [d.double() * factor for d, factor in zip(sparse, formula.factors, strict=True)]
    if formula.votes is None:
        result = _sum(weighted)
        # As a tensor: by a number, CUDA multiplies by its reciprocal, which rounds twice.
        divisor = torch.tensor(total(formula.weights) or 1.0, dtype=torch.float64, device=result.device)
    else:
        vote = _sum([d.double() * v for d, v in zip(sparse, formula.votes, strict=True)]) >= 0
        signed = [torch.where(vote, x, -x) for x in weighted]
        result = _sum([torch.where(s <= 0, 0.0, x) for s, x in zip(signed, weighted, strict=True)])
        divisor = _sum([(~(s <= 0)).double() * w for s, w in zip(signed, formula.weights, strict=True)])
        divisor = torch.where(divisor == 0, 1.0, divisor)
    if formula.normalize:
        result = result / divisor
    return base.double() + result * formula.factor


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    result = terms[0].clone()
    for term in terms[1:]:
        result += term
    return result


def _memory(values: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    return memoryview(values.numpy())  # type: ignore[arg-type]
