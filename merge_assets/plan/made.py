"""Tensors of an input that do not lie in its files as they are merged: where they come from instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from merge_assets.checkpoint import TensorHeader


@dataclass(frozen=True)
class Maker:
    """A way to make one input of a merge out of stored tensors of other shapes; no recipe can ask for it.

    Attributes:
        name: stands in a plan where the name of a merge method would.
        passes: streaming passes over the stored tensors before the first element is known.
        version: raised whenever it gives other numbers; part of the key of every tensor that is made of what it makes.
    """

    name: str
    passes: int = 0
    version: str = "1"


GATHER = Maker("input:gather")
"""Rows of tensors in another order: embeddings for another vocabulary, projections and experts grouped otherwise."""

LORA = Maker("input:lora")
"""A weight with a low-rank update: W + s·B·A (2106.09685)."""

DORA = Maker("input:dora", passes=1)
"""A weight with a low-rank update, its rows brought to given lengths (2402.09353)."""

DEQUANTIZE = Maker("input:dequantize")
"""A weight in 8-bit floating point times the scales of its blocks."""

TRANSPOSE = Maker("input:transpose")
"""The matrices of a stack, each transposed."""

UNPACK = Maker("input:unpack")
"""A weight in codes of four bits times the scales of its groups."""

MAKERS = {maker.name: maker for maker in (GATHER, LORA, DORA, DEQUANTIZE, UNPACK, TRANSPOSE)}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        header: of the tensor, under the name that it has there.
        of_adapter: whether the file is the adapter's and not the model's.
    """

    header: TensorHeader
    of_adapter: bool = False


@dataclass(frozen=True)
class Made:
    """A tensor computed from others.

    Attributes:
        method: name of a merge method or of a :class:`Maker`.
        shape: of the result.
        parts: what it is computed from.
        parameters: of the method.
        of_parts: per-model parameters, one set for each part; empty where the method has none.
        rows: of gathered rows, where they come from; see :mod:`merge_assets.plan.vocabulary_rows`.
    """

    method: str
    shape: tuple[int, ...]
    parts: tuple[TensorOrigin, ...]
    parameters: Mapping[str, float | bool | str]
    of_parts: tuple[Mapping[str, float | bool | str], ...] = ()
    rows: str | None = None


TensorOrigin = StoredTensor | Made


@dataclass(frozen=True)
class MadeTensors:
    """What differs between an input's files and the input as it is merged.

    Attributes:
        origins: by name of the tensor as it is merged; all others lie in the model's files under their own name.
        aside: stored tensors of the model that are no tensors of the input as it is merged, and why.
    """

    origins: Mapping[str, TensorOrigin]
    aside: Mapping[str, str]


NOTHING_MADE = MadeTensors({}, {})
