"""Tiles of torch rounded to an output dtype, once: bit for bit what ``store`` in native/common.h does.

Torch goes from float64 to 16 bits by way of float32 and so rounds twice: 1 + 2⁻⁸ + 2⁻³⁰ would become 1 in bfloat16, where the
nearest is 1 + 2⁻⁷.
"""

from __future__ import annotations

import torch

from merge_assets.checkpoint import TORCH_NAMES

_CUT = (1 << 29) - 1
"""Bits that a float64 has and a float32 has not."""

_QUIET = {
    "BF16": (torch.int16, 0x7FC0),
    "F16": (torch.int16, 0x7E00),
    "F32": (torch.int32, 0x7FC00000),
    "F64": (torch.int64, 0x7FF8000000000000),
}
"""What every NaN is written as, since the bits that arithmetic gives one are a matter of the device."""


def rounded(result: torch.Tensor, dtype: str) -> tuple[torch.Tensor, int]:
    """A float32 or float64 tensor as another dtype, and how many of its elements are NaN or infinite there.

    Args:
        result: what was computed.
        dtype: safetensors code.
    """
    if result.dtype == torch.float64 and dtype in ("BF16", "F16"):
        result = _to_odd(_on_subnormal_grid(result) if dtype == "BF16" else result)
    narrow = result.to(getattr(torch, TORCH_NAMES[dtype]))
    bad = int((~torch.isfinite(narrow)).sum())
    if bad:
        integers, quiet = _QUIET[dtype]
        narrow = narrow.view(integers).masked_fill(narrow.isnan(), quiet).view(narrow.dtype)
    return narrow, bad


def _to_odd(values: torch.Tensor) -> torch.Tensor:
    """Float64 cut to float32, the last bit set where anything was cut off; exact from 2⁻¹²⁶ on."""
    bits = values.contiguous().view(torch.int64)
    return ((bits | ((bits & _CUT) + _CUT)) & ~_CUT).view(torch.float64).float()


def _on_subnormal_grid(values: torch.Tensor) -> torch.Tensor:
    """Values below bfloat16's smallest normal number rounded to a multiple of 2⁻¹³³, its smallest one."""
    magnitudes = values.abs()
    small = torch.copysign((magnitudes + 2.0**-81) - 2.0**-81, values)
    return torch.where(magnitudes < 2.0**-126, small, values)
