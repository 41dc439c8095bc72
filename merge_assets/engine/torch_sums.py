"""Sums of float64 tensors in the order in which native/combine.c and native/mix.c add: the same bits on every device.

A run is summed in chunks of :data:`CHUNK` elements from its beginning, a chunk in :data:`LANES` partial sums, element k in
partial sum k % LANES; the sums of the chunks are added one after the other. Torch's own sums and products of matrices add in
an order that is a matter of device, shape and version; all that is used of it here is the addition of two tensors.
"""

from __future__ import annotations

import numpy as np
import torch

CHUNK, LANES = 512, 8


class Sum:
    """The sum of the elements of a whole tensor, given tile by tile, in order."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, values: torch.Tensor, run: int) -> None:
        """Add a tile of one dimension.

        Args:
            values: float64; a whole number of runs, but for the end of the tensor.
            run: elements of a run.
        """
        runs = values.numel() // run
        for part in (values[: runs * run].view(runs, run), values[None, runs * run :]):
            if part.numel():
                sums = np.append(self.value, _of_runs(part).cpu().numpy())
                self.value = float(np.add.accumulate(sums)[-1])


def _of_runs(runs: torch.Tensor) -> torch.Tensor:
    """The sums of the chunks of each run, (runs, length) -> (runs · chunks,)."""
    count, length = runs.shape
    whole, rest = length // CHUNK * CHUNK, length % CHUNK
    sums = [_of_chunks(runs[:, :whole].reshape(count, whole // CHUNK, CHUNK))]
    if rest:
        last = torch.nn.functional.pad(runs[:, whole:], (0, -rest % LANES))
        sums.append(_of_chunks(last.reshape(count, 1, last.shape[1])))
    return torch.cat(sums, dim=1).flatten()


def _of_chunks(chunks: torch.Tensor) -> torch.Tensor:
    """The sum of each chunk, (runs, chunks, length) -> (runs, chunks)."""
    steps = chunks.reshape(*chunks.shape[:2], chunks.shape[2] // LANES, LANES).unbind(2)
    lanes = torch.zeros_like(steps[0])
    for step in steps:
        lanes += step
    first, *others = lanes.unbind(2)
    total = first.clone()
    for lane in others:
        total += lane
    return total
