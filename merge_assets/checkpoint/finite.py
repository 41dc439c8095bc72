"""NaN and infinite elements of a stored tensor, told by their bits."""

from __future__ import annotations

from pathlib import Path

from merge_assets.checkpoint.tensors import DTYPES, TensorHeader

_BLOCK = 1 << 20

_LARGEST: dict[str, tuple[int, int]] = {
    "F8_E4M3": (0x7F, 0x7E),
    "F8_E5M2": (0x7F, 0x7B),
    "F16": (0x7FFF, 0x7BFF),
    "BF16": (0x7FFF, 0x7F7F),
    "F32": (0x7FFFFFFF, 0x7F7FFFFF),
    "F64": (0x7FFFFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF),
    "F8_E8M0": (0xFF, 0xFE),
}
"""The bits without the sign, and those of the largest finite number: NaN and infinities are above it."""

_ONLY = {"F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80}
"""The only NaN of a dtype that has no infinities, which is the negative zero of others."""


def nonfinite_elements(file: Path, header: TensorHeader) -> int:
    """How many elements of a tensor in a file are NaN or infinite; none of integers are. Reads the tensor.

    Raises:
        OSError: if the file cannot be read.
    """
    import numpy as np

    dtype = "F32" if header.dtype == "C64" else header.dtype
    width, only = DTYPES[dtype], _ONLY.get(dtype)
    if dtype not in _LARGEST and only is None:
        return 0
    magnitude, largest = _LARGEST.get(dtype, (0, 0))
    unsigned = np.dtype(f"<u{width}")
    count, left = 0, header.nbytes
    with file.open("rb", buffering=0) as stream:
        stream.seek(header.begin)
        while left and (raw := stream.read(min(left, _BLOCK))):
            left -= len(raw)
            bits = np.frombuffer(raw, unsigned)
            if only is not None:
                count += int(np.count_nonzero(bits == only))
                continue
            sizes = bits & unsigned.type(magnitude)
            if sizes.max() > largest:
                count += int(np.count_nonzero(sizes > largest))
    return count
