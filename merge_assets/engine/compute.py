"""One worker of the executor: reads tiles into its own buffers, runs a kernel on them, writes the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from merge_assets.checkpoint import DTYPES, TORCH_NAMES
from merge_assets.engine.kernel import load_kernel
from merge_assets.plan import OutputTensor, TensorInput

if TYPE_CHECKING:
    from merge_assets.engine.execute import Job, _Shared

BLOCK = 1 << 17
"""Elements per block of a statistic pass. Part of the numerics: sums are taken block by block in this size."""


class Worker:
    """Buffers of one thread, and the device its arithmetic runs on."""

    def __init__(self, shared: _Shared, device: str, tile: int) -> None:
        self.shared = shared
        self.device = torch.device(device)
        self.tile = tile
        self._buffers: list[torch.Tensor] = []

    def compute(self, job: Job) -> None:
        """Compute and write the elements of one job."""
        expression = _Expression(self, job.tensor)
        tile_function = load_kernel(job.tensor.method)(expression)
        dtype = getattr(torch, TORCH_NAMES[job.tensor.dtype])
        width = DTYPES[job.tensor.dtype]
        output = self.shared.outputs[job.tensor.shard]
        for start in range(job.start, job.end, self.tile):
            count = min(self.tile, job.end - start)
            result = tile_function(self.read(job.tensor, start, count), start).to(dtype).cpu()
            self._count_nonfinite(job.tensor, result)
            output.write(_memory(result), job.tensor.begin + start * width)

    def read(self, tensor: OutputTensor, start: int, count: int) -> list[torch.Tensor]:
        """Elements of every input as float32 on the device; valid until the next read."""
        while len(self._buffers) < len(tensor.inputs):
            self._buffers.append(torch.empty(max(self.tile, BLOCK) * 8, dtype=torch.uint8))
        tiles = [self._read_one(place, item, start, count) for place, item in enumerate(tensor.inputs)]
        read = sum(count * DTYPES[item.header.dtype] for item in tensor.inputs)
        self.shared.advance(read, tensor.name)
        return tiles

    def _read_one(self, place: int, item: TensorInput, start: int, count: int) -> torch.Tensor:
        width = DTYPES[item.header.dtype]
        raw = self._buffers[place][: count * width]
        path = str(Path(self.shared.plan.models[item.model].location) / item.header.file)
        self.shared.inputs.read_into(path, _memory(raw), item.header.begin + start * width)
        values = raw.view(getattr(torch, TORCH_NAMES[item.header.dtype]))
        return values.to(self.device, torch.float32)

    def _count_nonfinite(self, tensor: OutputTensor, result: torch.Tensor) -> None:
        # A finite sum means that every element is finite, and is cheaper than a test of each.
        if torch.isfinite(result.sum()):
            return
        count = int((~torch.isfinite(result)).sum())
        if count:
            with self.shared.lock:
                self.shared.nonfinite[tensor.name] = self.shared.nonfinite.get(tensor.name, 0) + count


def _memory(values: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    return memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]


class _Expression:
    """An output tensor as its kernel sees it (:class:`merge_assets.engine.kernel.Expression`)."""

    def __init__(self, worker: Worker, tensor: OutputTensor) -> None:
        self._worker = worker
        self._tensor = tensor

    @property
    def name(self) -> str:
        return self._tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tensor.shape

    @property
    def base(self) -> int | None:
        return self._tensor.base

    @property
    def parameters(self) -> Mapping[str, float | bool]:
        return self._tensor.parameters

    def per_model(self, name: str) -> list[float]:
        return [float(i.parameters[name]) for place, i in enumerate(self._tensor.inputs) if place != self._tensor.base]

    def optional(self, name: str) -> list[float | None]:
        found = [i.parameters.get(name) for place, i in enumerate(self._tensor.inputs) if place != self._tensor.base]
        return [None if value is None else float(value) for value in found]

    def blocks(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        elements = self._tensor.elements
        for start in range(0, elements, BLOCK):
            yield start, self._worker.read(self._tensor, start, min(BLOCK, elements - start))
