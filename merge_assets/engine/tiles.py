"""Tiles as torch tensors, for methods that bring a tile function of their own."""

from __future__ import annotations

import ctypes

import torch

from merge_assets.checkpoint import DTYPES, TORCH_NAMES
from merge_assets.engine.rounding import rounded


def as_float32(memory: memoryview, dtype: str, count: int) -> torch.Tensor:
    """The first elements of some memory as float32 that may be overwritten."""
    raw = torch.frombuffer(memory, dtype=getattr(torch, TORCH_NAMES[dtype]), count=count)
    return raw.to(torch.float32, copy=True)


def store(result: torch.Tensor, address: int, dtype: str) -> int:
    """Round a tile to the output and count the elements that are NaN or infinite there."""
    narrow, bad = rounded(result, dtype)
    ctypes.memmove(address, narrow.contiguous().data_ptr(), narrow.numel() * DTYPES[dtype])
    return bad
