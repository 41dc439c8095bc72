"""Tensors of an input that do not lie in its files as they are merged: where they come from instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from merge_assets.checkpoint import TensorHeader


@dataclass(frozen=True)
class Stored:
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
        method: merge method or maker; see :attr:`merge_assets.plan.methods.Method.makes_input`.
        shape: of the result.
        parts: what it is computed from.
        parameters: of the method.
        of_parts: per-model parameters, one set for each part; empty where the method has none.
    """

    method: str
    shape: tuple[int, ...]
    parts: tuple[Origin, ...]
    parameters: Mapping[str, float | bool | str]
    of_parts: tuple[Mapping[str, float | bool | str], ...] = ()


Origin = Stored | Made


@dataclass(frozen=True)
class MadeTensors:
    """What differs between an input's files and the input as it is merged.

    Attributes:
        origins: by name of the tensor as it is merged; all others lie in the model's files under their own name.
        aside: stored tensors of the model that are no tensors of the input as it is merged, and why.
    """

    origins: Mapping[str, Origin]
    aside: Mapping[str, str]


NOTHING_MADE = MadeTensors({}, {})
