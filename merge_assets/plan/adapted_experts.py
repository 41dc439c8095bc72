"""Adapters of fused experts: matrices of one expert each in the files, one parameter for all of them in memory.

PEFT adapts a parameter of shape (experts, out, in) by one pair of factors: A has ``rank`` rows for every expert, one expert
after the other, and B a column for every rank and expert, experts running fastest. The files keep an expert's matrices apart,
and the fused ``gate_up_proj`` is two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from merge_assets.architecture.experts import matrices_of
from merge_assets.checkpoint import LoraAdapter, LowRank, TensorHeader


@dataclass(frozen=True)
class ExpertUpdate:
    """What one matrix of one expert takes of an update.

    Attributes:
        tensor: the matrix.
        expert: its expert's number.
        experts: how many there are.
        first_row: its first row in the fused parameter.
        scale: factor of the update.
    """

    tensor: str
    expert: int
    experts: int
    first_row: int
    scale: float


def expert_updates(
    update: LowRank, adapter: LoraAdapter, tensors: Mapping[str, TensorHeader]
) -> list[ExpertUpdate] | None:
    """The matrices that an update of a fused parameter changes; ``None`` if the model has none that it fits.

    Raises:
        CheckpointError: if the update's rank is not that of the adapter's config.
    """
    for parameter, experts in matrices_of(update.module, tensors):
        shapes = {tuple(tensors[name].shape for name in names) for names in experts}
        if len(shapes) != 1:
            continue
        (parts,) = shapes
        rows = [shape[0] for shape in parts]
        if sum(rows) != update.up.shape[0] or any(shape[1:] != update.down.shape[1:] for shape in parts):
            continue
        scale = adapter.scale_of_experts(update, f"{update.module}.{parameter}", len(experts))
        return [
            ExpertUpdate(name, number, len(experts), sum(rows[:place]), scale)
            for number, names in enumerate(experts)
            for place, name in enumerate(names)
        ]
    return None
