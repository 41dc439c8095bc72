"""NaN and infinite elements of a stored tensor, told by their bits."""

from __future__ import annotations

from pathlib import Path

from merge_assets.checkpoint.tensors import DTYPES, TensorHeader

_BLOCK = 8 << 20

_MASKS: dict[str, int] = {
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F32": 0x7F800000,
    "F64": 0x7FF0000000000000,
}
"""The bits that are all set in every NaN and infinity of a dtype, and in nothing else."""

_ONLY = {"F8_E8M0": 0xFF, "F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80}
"""The only NaN of a dtype that has no infinities."""


def nonfinite_elements(file: Path, header: TensorHeader) -> int:
    """How many elements of a tensor in a file are NaN or infinite; none of integers are. Reads the tensor.

    Raises:
        OSError: if the file cannot be read.
    """
    import numpy as np

    dtype = "F32" if header.dtype == "C64" else header.dtype
    width, mask, only = DTYPES[dtype], _MASKS.get(dtype), _ONLY.get(dtype)
    if mask is None and only is None:
        return 0
    unsigned = np.dtype(f"<u{width}")
    count, left = 0, header.nbytes
    with file.open("rb") as stream:
        stream.seek(header.begin)
        while left and (raw := stream.read(min(left, _BLOCK))):
            left -= len(raw)
            bits = np.frombuffer(raw, unsigned)
            bad = bits == only if mask is None else bits & unsigned.type(mask) == mask
            count += int(np.count_nonzero(bad))
    return count
