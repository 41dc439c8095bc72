"""Quantised checkpoints, made on the spot, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.synthetic import llama_config, llama_shapes, write_checkpoint

FP8 = torch.float8_e4m3fn
Scales = Callable[[int, int], torch.Tensor]


def write_fp8(
    folder: Path,
    scales: Scales,
    settings: dict[str, object],
    *,
    suffix: str = "weight_scale_inv",
    seed: int = 0,
    dtype: torch.dtype = FP8,
    extra: dict[str, torch.Tensor] | None = None,
) -> Path:
    """A Llama whose projections are in 8 bits, with scales of a given shape."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in llama_shapes(2).items():
        values = torch.randn(shape, generator=generator)
        if "_proj" not in name:
            tensors[name] = values.bfloat16()
            continue
        tensors[name] = (values * 60).to(dtype)
        tensors[name.removesuffix("weight") + suffix] = scales(*shape)
    config = llama_config(2) | {"quantization_config": settings}
    return write_checkpoint(folder, tensors | (extra or {}), config)


def random_scales(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.5).to(dtype) / 64


def spread(scales: torch.Tensor, rows: int, columns: int, block: tuple[int, int]) -> np.ndarray:
    """Every element's scale, from the definition."""
    grid = scales.double().numpy().reshape(-(-rows // block[0]), -(-columns // block[1]))
    return np.array([[grid[i // block[0], j // block[1]] for j in range(columns)] for i in range(rows)])
