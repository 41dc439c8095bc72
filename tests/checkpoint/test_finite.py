"""Contract of counting NaN and infinities in stored bytes: what torch counts in the same elements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merge_assets.checkpoint import nonfinite_elements
from merge_assets.checkpoint.finite import NonfiniteCounter
from merge_assets.checkpoint.tensors import DTYPES, TORCH_NAMES, TensorHeader


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_bit_pattern_counts_as_torch_counts_it(dtype: str, tmp_path: Path) -> None:
    width = DTYPES[dtype]
    if width <= 2:
        raw = torch.arange(256**width, dtype=torch.int64).to(torch.uint8 if width == 1 else torch.uint16)
    else:
        generator = torch.Generator().manual_seed(1)
        raw = torch.randint(0, 256, (width * 5000,), generator=generator, dtype=torch.uint8)
        for place in (100, 200, 300):  # all ones in the exponent, which chance seldom gives
            raw[place * width : (place + 1) * width] = 255
            raw[(place + 1) * width - 1] = 127
    data = raw.view(torch.uint8).numpy().tobytes()
    values = torch.frombuffer(bytearray(data), dtype=getattr(torch, TORCH_NAMES[dtype]))
    if dtype == "C64":
        values = torch.view_as_real(values)
    wide = values.to(torch.float64) if values.dtype.is_floating_point else None
    file = tmp_path / "x"
    file.write_bytes(b"head" * 2 + data)
    header = TensorHeader("t", dtype, (len(data) // width,), "x", 8, 8 + len(data))
    assert nonfinite_elements(file, header) == (0 if wide is None else int((~torch.isfinite(wide)).sum()))
    if wide is not None:
        assert int((~torch.isfinite(wide)).sum()) > 0


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16", "F32", "F64", "I32"])
def test_what_comes_by_in_pieces_counts_as_what_comes_at_once(dtype: str) -> None:
    width, random = DTYPES[dtype], np.random.default_rng(2)
    data = random.choice(np.array([0xFF, 0x7F, 0x3C], np.uint8), size=width * 3000, p=[0.8, 0.1, 0.1]).tobytes()
    whole, pieces, at = NonfiniteCounter(dtype), NonfiniteCounter(dtype), 0
    whole.update(data)
    for step in random.integers(0, 3 * width, size=10_000):
        pieces.update(memoryview(data)[at : at + int(step)])
        at += int(step)
    assert at > len(data)
    assert pieces.count == whole.count
    assert (whole.count > 0) == (dtype != "I32")
