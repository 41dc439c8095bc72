"""A model's tensors as another one names and groups them, and what reads them there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from merge_assets.checkpoint import Checkpoint, TensorHeader
from merge_assets.checkpoint.tensors import DTYPES
from merge_assets.plan import PlanInput
from merge_assets.plan.decisions import Decisions, TensorDecision
from merge_assets.plan.made import TRANSPOSE, Made, StoredTensor, TensorOrigin
from merge_assets.plan.regroup import grouped_alike
from merge_assets.plan.spelling import spelled_alike
from merge_assets.plan.vocabulary_rows import runs
from merge_assets.reference import ModelReference

Bytes = Callable[[TensorHeader, int, int], bytes]
"""Reads bytes of a tensor from a place in it to another one."""


@dataclass(frozen=True)
class Readable:
    """A model's headers, and what reads its bytes.

    Attributes:
        reference: as it was asked for.
        checkpoint: headers and config.
        read: of the tensors in these headers.
    """

    reference: ModelReference
    checkpoint: Checkpoint
    read: Bytes


def matched(first: Readable, second: Readable) -> tuple[Readable, Readable, tuple[TensorDecision, ...]]:
    """Two models with their tensors matched by role: the second with names and groups of the first.

    Wrappers of training go from the names of both. What is made of tensors of several dtypes has no bytes and is left out.

    Returns:
        Both, and which tensors are read under another name, or out of others.
    """
    decisions = Decisions()
    inputs = [PlanInput(one.reference, one.checkpoint) for one in (first, second)]
    own, other = grouped_alike(spelled_alike(inputs, 0, decisions), 0, decisions)
    made = {name: origin for name, origin in other.made.origins.items() if isinstance(origin, Made)}
    mixed = {name for name, origin in made.items() if len(_dtypes(origin)) > 1}
    tensors = {name: header for name, header in other.checkpoint.tensors.items() if name not in mixed}

    def read(header: TensorHeader, begin: int, end: int) -> bytes:
        if header.name not in made:
            return second.read(header, begin, end)
        size = DTYPES[header.dtype]
        return _elements(made[header.name], second.read, begin // size, end // size, size)

    return (
        Readable(first.reference, own.checkpoint, first.read),
        Readable(second.reference, replace(other.checkpoint, tensors=tensors), read),
        tuple(decisions),
    )


def _dtypes(origin: TensorOrigin) -> set[str]:
    if isinstance(origin, StoredTensor):
        return {origin.header.dtype}
    return {dtype for part in origin.parts for dtype in _dtypes(part)}


def _elements(origin: TensorOrigin, read: Bytes, begin: int, end: int, size: int) -> bytes:
    """The bytes of elements ``begin`` to ``end``, each of ``size`` bytes, of a tensor that is gathered or transposed."""
    if isinstance(origin, StoredTensor):
        return read(origin.header, begin * size, end * size)
    if origin.method == TRANSPOSE.name:
        return _turned(origin, read, begin, end, size)
    mapped = runs(origin.rows or "")
    width = math.prod(origin.shape) // sum(run.count for run in mapped)
    found = []
    for run in mapped:
        low, high = max(begin, run.start * width), min(end, (run.start + run.count) * width)
        if low < high:
            ((place, row),) = run.sources
            at = (row - run.start) * width
            found.append(_elements(origin.parts[place], read, low + at, high + at, size))
    return b"".join(found)


def _turned(origin: Made, read: Bytes, begin: int, end: int, size: int) -> bytes:
    """Of a stack's matrices those that the elements are of are read whole."""
    import numpy as np

    rows, columns = origin.shape[-2:]
    first, last = begin // (rows * columns), math.ceil(end / (rows * columns))
    raw = _elements(origin.parts[0], read, first * rows * columns, last * rows * columns, size)
    stack = np.frombuffer(raw, np.dtype(f"V{size}")).reshape(-1, columns, rows)
    skipped = begin - first * rows * columns
    return stack.swapaxes(1, 2).reshape(-1)[skipped : skipped + end - begin].tobytes()
