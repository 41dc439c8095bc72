"""Contract of counting NaN and infinities in stored bytes: what torch counts in the same elements."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_assets.checkpoint import nonfinite_elements
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
