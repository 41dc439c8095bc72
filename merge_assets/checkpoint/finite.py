"""NaN and infinite elements of a tensor, told by their bits."""

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


class NonfiniteCounter:
    """Counts the elements of a tensor that are NaN or infinite, as its bytes come by; none of integers are.

    Args:
        dtype: as the header calls it.

    Attributes:
        count: among the whole elements that came by.
    """

    def __init__(self, dtype: str) -> None:
        self.count = 0
        self._dtype = "F32" if dtype == "C64" else dtype
        self._begun = b""

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes, of any number."""
        if not self.can_be_any:
            return
        width = DTYPES[self._dtype]
        missing = -len(self._begun) % width
        if self._begun:
            self._begun += bytes(data[:missing])
            data = data[missing:]
            if len(self._begun) < width:
                return
            self._look(self._begun)
        whole = len(data) // width * width
        self._begun = bytes(data[whole:])
        self._look(data[:whole])

    @property
    def can_be_any(self) -> bool:
        """Whether the dtype has NaN."""
        return self._dtype in _LARGEST or self._dtype in _ONLY

    def _look(self, data: bytes | memoryview) -> None:
        import numpy as np

        unsigned = np.dtype(f"<u{DTYPES[self._dtype]}")
        bits = np.frombuffer(data, unsigned)
        if not bits.size:
            return
        if (only := _ONLY.get(self._dtype)) is not None:
            self.count += int(np.count_nonzero(bits == only))
            return
        magnitude, largest = _LARGEST[self._dtype]
        sizes = bits & unsigned.type(magnitude)
        if sizes.max() > largest:
            self.count += int(np.count_nonzero(sizes > largest))


def nonfinite_elements(file: Path, header: TensorHeader) -> int:
    """How many elements of a tensor in a file are NaN or infinite; none of integers are. Reads the tensor.

    Raises:
        OSError: if the file cannot be read.
    """
    counter, left = NonfiniteCounter(header.dtype), header.nbytes
    if not counter.can_be_any:
        return 0
    with file.open("rb", buffering=0) as stream:
        stream.seek(header.begin)
        while left and (raw := stream.read(min(left, _BLOCK))):
            left -= len(raw)
            counter.update(raw)
    return counter.count
