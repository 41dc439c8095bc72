"""Weights in codes of four bits, two in a byte, that stand for exact numbers: which tensors hold them, and in which layout.

A number is the value of its code times the scale of its group in the row. Codes are those of MXFP4 (E2M1; ``…_blocks`` and
``…_scales`` of gpt-oss, bytes of compressed-tensors, DeepSeek-V4) with scales that are powers of two, or whole numbers from -8
to 7 (``pack-quantized`` of compressed-tensors).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.errors import CheckpointError

POWERS = frozenset({"U8", "F8_E8M0"})
"""Dtypes of scales that are powers of two: the exponent plus 127, in a byte."""

_SCALES = frozenset({"F64", "F32", "F16", "BF16"})
_BLOCK = 32

Codes = Literal["e2m1", "int4"]


@dataclass(frozen=True)
class PackedWeight:
    """A weight in codes of four bits.

    Attributes:
        codes: the stored codes.
        scale: the stored scales.
        shape: of the weight that they stand for.
        kind: what the codes mean.
        group: codes of a row that share one scale.
        transposed: whether a matrix of the weight is the transpose of the stored one.
    """

    codes: TensorHeader
    scale: TensorHeader
    shape: tuple[int, ...]
    kind: Codes
    group: int
    transposed: bool = False


def packed_weights(
    tensors: Mapping[str, TensorHeader], settings: Mapping[str, Any]
) -> tuple[dict[str, PackedWeight], dict[str, str]]:
    """The packed weights of a checkpoint by the weights' names, and the tensors that are no weights, with what they are.

    Args:
        tensors: all of the checkpoint.
        settings: its quantisation config.

    Raises:
        CheckpointError: codes whose layout is not read; without the checkpoint's location.
    """
    weights: dict[str, PackedWeight] = {}
    aside: dict[str, str] = {}
    for name, header in tensors.items():
        if (found := _packed(name, header, tensors, settings)) is None:
            continue
        weight, packed = found
        weights[weight] = packed
        aside[packed.scale.name] = f"scale of {weight}"
        if name != weight:
            aside[name] = f"codes of {weight}"
        if (shape := f"{weight}_shape") in tensors:
            aside[shape] = f"shape of {weight}"
    return weights, aside


def _packed(
    name: str, header: TensorHeader, tensors: Mapping[str, TensorHeader], settings: Mapping[str, Any]
) -> tuple[str, PackedWeight] | None:
    if name.endswith("_blocks") and header.dtype == "U8":
        weight = name.removesuffix("_blocks")
        return weight, _of_blocks(weight, header, tensors)
    if name.endswith("_packed"):
        weight = name.removesuffix("_packed")
        return weight, _of_words(weight, header, tensors, settings)
    if header.dtype == "I8" and (scale := _power_of(name, tensors)) is not None:
        return name, _of_bytes(name, header, scale)
    return None


def _of_blocks(weight: str, codes: TensorHeader, tensors: Mapping[str, TensorHeader]) -> PackedWeight:
    """gpt-oss: (experts, outputs, groups, 16 bytes) hold what the model has as (experts, inputs, outputs)."""
    scale = tensors.get(f"{weight}_scales")
    if len(codes.shape) != 4 or scale is None or scale.dtype not in POWERS or scale.shape != codes.shape[:-1]:
        raise _unknown(codes, scale)
    experts, outputs, groups, width = codes.shape
    return PackedWeight(codes, scale, (experts, groups * width * 2, outputs), "e2m1", 2 * width, transposed=True)


def _of_words(
    weight: str, codes: TensorHeader, tensors: Mapping[str, TensorHeader], settings: Mapping[str, Any]
) -> PackedWeight:
    """compressed-tensors: eight whole numbers in an int32, or two of MXFP4 in a byte."""
    for suffix, what in (
        ("_zero_point", "zero points"),
        ("_g_idx", "columns in another order"),
        ("_global_scale", "a second scale for the whole tensor (NVFP4)"),
    ):
        if weight + suffix in tensors:
            raise CheckpointError(f"{what} (tensor {weight}{suffix}), which are not read")
    scale = tensors.get(f"{weight}_scale")
    if codes.dtype == "U8":
        return _of_bytes(weight, codes, scale)
    if codes.dtype != "I32" or scale is None or scale.dtype not in _SCALES or len(codes.shape) < 2:
        raise _unknown(codes, scale)
    for weights in _of_groups(settings):
        if (weights.get("num_bits"), weights.get("type"), weights.get("symmetric", True)) != (4, "int", True):
            told = ", ".join(f"{key} {weights.get(key)}" for key in ("num_bits", "type", "symmetric"))
            raise CheckpointError(f"packed codes of {told} (tensor {codes.name}), which are not read")
    found = _grouped(codes, scale, (*codes.shape[:-1], 8 * codes.shape[-1]), "int4")
    sizes = {weights.get("group_size") for weights in _of_groups(settings)} - {None, -1}
    if sizes and found.group not in sizes:
        raise _unknown(codes, scale)  # rows that were filled up to whole int32
    return found


def _of_bytes(weight: str, codes: TensorHeader, scale: TensorHeader | None) -> PackedWeight:
    """MXFP4, two numbers in a byte, in the layout of the weight."""
    if scale is None or scale.dtype not in POWERS or len(codes.shape) < 2:
        raise _unknown(codes, scale)
    found = _grouped(codes, scale, (*codes.shape[:-1], 2 * codes.shape[-1]), "e2m1")
    if found.group != _BLOCK:
        raise _unknown(codes, scale)
    return found


def _grouped(codes: TensorHeader, scale: TensorHeader, shape: tuple[int, ...], kind: Codes) -> PackedWeight:
    groups = scale.shape[-1] if scale.shape else 0
    if scale.shape[:-1] != shape[:-1] or not groups or shape[-1] % groups:
        raise _unknown(codes, scale)
    return PackedWeight(codes, scale, shape, kind, shape[-1] // groups)


def _power_of(name: str, tensors: Mapping[str, TensorHeader]) -> TensorHeader | None:
    """The scales of bytes that are called as the weight itself."""
    names = (f"{name}_scale_inv", f"{name}_scale", f"{name.removesuffix('weight')}scale")
    found = (tensors.get(scale) for scale in names)
    return next((scale for scale in found if scale is not None and scale.dtype in POWERS), None)


def _of_groups(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What compressed-tensors says of the weights of each group of modules."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            yield weights


def _unknown(codes: TensorHeader, scale: TensorHeader | None) -> CheckpointError:
    beside = f"scales {scale.name} ({scale.dtype}, {list(scale.shape)})" if scale is not None else "no scales"
    return CheckpointError(
        f"packed codes of no known layout (tensor {codes.name}, {codes.dtype}, {list(codes.shape)}, with {beside})"
    )
