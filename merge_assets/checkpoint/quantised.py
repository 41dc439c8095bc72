"""Quantised checkpoints: which can be read as the floating-point weights that they stand for, and why others cannot.

Weights in 8-bit floating point with scales are read: ``weight`` times ``weight_scale_inv`` of its block (DeepSeek-V3,
``weight_block_size``), or times ``weight_scale`` of its row or of the whole matrix (compressed-tensors, fbgemm, ModelOpt).
Both scales multiply; the older name only says that the quantiser divided by it. So are whole numbers of 8 bits
(compressed-tensors), and those in codes of four bits that :mod:`merge_assets.checkpoint.packed` knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.architecture.config import DTYPE_KEYS, levels
from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.packed import POWERS, PackedWeight, packed_weights
from merge_assets.checkpoint.tensors import CODES, TensorHeader
from merge_assets.errors import CheckpointError

FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
SCALE_DTYPES = frozenset({"F64", "F32", "F16", "BF16", *POWERS})

_SCALED_KINDS = frozenset({"fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "quark", "finegrained_fp8", "mxfp4"})
_CONFIG_KEYS = ("quantization_config", "compression_config")
_SCALE_SUFFIXES = ("_scale_inv", "_scale")
_OF_ACTIVATIONS = (
    "input_scale",
    "input_global_scale",
    "activation_scale",
    "output_scale",
    "k_scale",
    "v_scale",
    "q_scale",
    "input_scale_ub",
)
_PACKED = (
    "qweight",
    "qzeros",
    "weight_zero_point",
    "weight_scale_2",
    "weight_global_scale",
    "_blocks",
    "bitmask",
)
_WEIGHT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})

_REASONS = {
    "gptq": "integers of a few bits, rounded to fit measured activations, from which the weights cannot be had exactly",
    "awq": "4-bit integers of weights that were scaled by measured activations, from which these cannot be had exactly",
    "bitsandbytes": "4- or 8-bit codes whose tables and states only bitsandbytes reads",
}


@dataclass(frozen=True)
class ScaledWeight:
    """A weight in 8-bit floating point.

    Attributes:
        weight: the stored weight.
        scale: its scales; ``None`` where the weight is the numbers themselves.
        block: rows and columns that share one scale; rows count over all leading dimensions.
    """

    weight: TensorHeader
    scale: TensorHeader | None
    block: tuple[int, int]


@dataclass(frozen=True)
class Quantised:
    """How to read a quantised checkpoint.

    Attributes:
        weights: scaled weights by name.
        packed: weights in codes of four bits, by the names of the weights.
        aside: tensors that are no weights, and what they are.
        dtype: safetensors code that the weights count as.
        config: the checkpoint's config without its quantisation.
    """

    weights: Mapping[str, ScaledWeight]
    packed: Mapping[str, PackedWeight]
    aside: Mapping[str, str]
    dtype: str
    config: Mapping[str, Any]


def read_quantised(checkpoint: Checkpoint) -> Quantised | None:
    """How to read a checkpoint's weights, ``None`` if it is not quantised.

    Raises:
        CheckpointError: if it is quantised in a way that is not read; without the checkpoint's location.
    """
    settings = _settings(checkpoint.config)
    kind = str((settings or {}).get("quant_method", "fp8")).lower()
    coded = FLOAT8 | {"I8"} if kind == "compressed-tensors" else FLOAT8
    eight = [header for header in checkpoint.tensors.values() if header.dtype in coded]
    scales = {header.name: scale for header in eight if (scale := _scale_of(header, checkpoint))}
    if settings is None and not scales:
        return None
    if kind not in _SCALED_KINDS:
        raise CheckpointError(_refusal(kind, _REASONS.get(kind, "codes that are not read")))
    try:
        packed, aside = packed_weights(checkpoint.tensors, settings or {})
    except CheckpointError as error:
        raise CheckpointError(_refusal(kind, str(error))) from None
    weights: dict[str, ScaledWeight] = {}
    for name, header in checkpoint.tensors.items():
        last = name.rpartition(".")[2]
        if name in aside or name in packed:
            continue
        if last in _OF_ACTIVATIONS:
            aside[name] = "scale of activations of the quantised model"
        elif last.endswith(_PACKED) or (last.endswith("weight") and header.dtype not in _WEIGHT_DTYPES | coded):
            raise CheckpointError(_refusal(kind, f"packed codes (tensor {name}, {header.dtype}) that are not read"))
        elif header.dtype in FLOAT8 or name in scales or (last == "weight" and header.dtype in coded):
            if name not in scales:
                raise CheckpointError(
                    f"is quantised ({kind}), but tensor {name} has no scale beside it ({name}_scale_inv or "
                    f"{name}_scale); fetch the checkpoint again, or merge the unquantised one"
                )
            weights[name] = ScaledWeight(header, scales[name], _block(header, scales[name], settings or {}))
            aside[scales[name].name] = f"scale of {name}"
    dtype, config = _weight_dtype(checkpoint.config), _without_quantisation(checkpoint.config)
    return Quantised(weights, packed, aside, dtype, config)


def read_unscaled(checkpoint: Checkpoint) -> Quantised | None:
    """How to compute with weights that are in 8-bit floating point and no more, as diffusers' are; ``None`` without such.

    Args:
        checkpoint: one that :func:`read_quantised` says nothing of.
    """
    whole = {name: header for name, header in checkpoint.tensors.items() if header.dtype in FLOAT8}
    weights = {
        name: ScaledWeight(header, None, (max(1, header.numel), max(1, header.numel))) for name, header in whole.items()
    }
    return Quantised(weights, {}, {}, _weight_dtype(checkpoint.config), checkpoint.config) if weights else None


def _refusal(kind: str, what: str) -> str:
    return f"is quantised ({kind}): it holds {what}; merge the unquantised checkpoint that it was made from"


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    found = (level[key] for level in sections for key in _CONFIG_KEYS if isinstance(level.get(key), Mapping))
    return next(found, None)


def _scale_of(header: TensorHeader, checkpoint: Checkpoint) -> TensorHeader | None:
    found = (checkpoint.tensors.get(header.name + suffix) for suffix in _SCALE_SUFFIXES)
    return next((scale for scale in found if scale is not None and scale.dtype in SCALE_DTYPES), None)


def _block(weight: TensorHeader, scale: TensorHeader, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    lead = weight.shape[:-2]
    rows, columns = (1, 1, *weight.shape)[-2:]
    whole, given = scale.shape, _block_size(settings)
    if scale.numel == 1:
        return max(1, math.prod(lead) * rows), max(1, columns)
    if whole in ((*lead, rows), (*lead, rows, 1)) and (lead == () or whole != lead):
        return 1, columns
    if lead and whole in (lead, (*lead, 1), (*lead, 1, 1)):
        return rows, columns
    if whole == (*lead, 1, columns):
        return rows, 1
    grid = (*lead, math.ceil(rows / given[0]), math.ceil(columns / given[1]))
    if whole == grid and (not lead or rows % given[0] == 0):
        return given
    raise CheckpointError(
        f"is quantised, but the scales {scale.name} of shape {list(whole)} are neither one for the whole of "
        f"{weight.name} of shape {list(weight.shape)}, nor one for each row, nor one for each block of "
        f"{given[0]}×{given[1]}; merge the unquantised checkpoint"
    )


def _block_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """``weight_block_size``, or ``block_structure`` of compressed-tensors; DeepSeek's 128×128 where nothing is said."""
    found: Any = settings.get("weight_block_size")
    groups = settings.get("config_groups")
    if found is None and isinstance(groups, Mapping):
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            found = found or (weights.get("block_structure") if isinstance(weights, Mapping) else None)
    if isinstance(found, list) and len(found) == 2 and all(type(n) is int and n > 0 for n in found):
        return found[0], found[1]
    return 128, 128


def _weight_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that the config gives the weights; bfloat16 if it gives none that they can have."""
    for level in levels(dict(config)):
        for key in DTYPE_KEYS:
            code = CODES.get(str(level.get(key)).removeprefix("torch."))
            if code in _WEIGHT_DTYPES:
                return code
    return "BF16"


def _without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_quantisation(value) if isinstance(value, Mapping) and key.endswith("_config") else value
        for key, value in config.items()
        if key not in _CONFIG_KEYS
    }
