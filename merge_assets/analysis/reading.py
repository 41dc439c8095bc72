"""Read matrices out of safetensors files: byte ranges in, float64 blocks out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from merge_assets.analysis.matrices import Matrix
from merge_assets.checkpoint import TensorHeader
from merge_assets.digests import Hasher
from merge_assets.errors import AnalysisError
from merge_assets.filestate import FileState, changed_while_read, settled
from merge_assets.work import Work

Doubles = npt.NDArray[np.float64]

_STORAGE = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_BLOCK = 8 << 20


class StoredMatrix:
    """A matrix in its storage type, turned into float64 block by block.

    Holds the stored bytes only, so a 16-bit matrix takes a quarter of its float64 size.

    Args:
        values: the stored numbers, shape (rows, columns); 16-bit integers for BF16.
        dtype: safetensors code.
    """

    def __init__(self, values: npt.NDArray[np.generic], dtype: str) -> None:
        self.shape: tuple[int, int] = (values.shape[0], values.shape[1])
        self._values = values
        self._dtype = dtype

    def block(self, rows: slice = slice(None), columns: slice = slice(None)) -> Doubles:
        """A block in float64; exact, since every storage type is a subset of float64."""
        values = self._values[rows, columns]
        if self._dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float64)


class OpenTensor:
    """A stored tensor, open for reading; what is read of it is what was hashed, or :meth:`check_unchanged` tells.

    Args:
        directory: of the checkpoint.
        header: of the tensor.

    Raises:
        AnalysisError: here and in the methods that read, if the file cannot be read or ends too early.
    """

    def __init__(self, directory: Path, header: TensorHeader) -> None:
        self.path = directory / header.file
        self._header = header
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise AnalysisError(f"{self.path}: cannot be read: {error.strerror}") from error
        self._state = settled(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def digest(self, work: Work) -> str:
        """Digest of the tensor's bytes (:mod:`merge_assets.digests`); ``work`` is asked before every block."""
        header, hasher = self._header, Hasher()
        buffer = memoryview(bytearray(min(_BLOCK, header.nbytes)))
        at = header.begin
        while at < header.end:
            work.check(f"hashing {header.name}")
            chunk = buffer[: min(len(buffer), header.end - at)]
            _read(self._file.fileno(), header, chunk, at)
            hasher.update(chunk)
            at += len(chunk)
        return hasher.hexdigest()

    def matrix(self, matrix: Matrix) -> StoredMatrix:
        """One matrix of the tensor; whole rows are read as byte ranges, columns are cut from their block."""
        return _read_matrix(self._file.fileno(), matrix)

    def check_unchanged(self) -> None:
        """See that nothing was written into the file since it was opened.

        Raises:
            InputError: if something was.
        """
        if not self._state.is_same(FileState.of(os.fstat(self._file.fileno()))):
            raise changed_while_read(self.path)


def _read_matrix(descriptor: int, matrix: Matrix) -> StoredMatrix:
    header = matrix.source
    size = np.dtype(_STORAGE[header.dtype]).itemsize
    columns = matrix.block[1]
    base = header.begin + matrix.offset * size
    contiguous = matrix.axis == 0 and all(step == 1 for _, _, step in matrix.spans)
    ranges = [(a, b) for a, b, _ in matrix.spans] if contiguous else [(0, matrix.block[0])]
    buffer = bytearray(sum(b - a for a, b in ranges) * columns * size)
    view = memoryview(buffer)
    for a, b in ranges:
        length = (b - a) * columns * size
        _read(descriptor, header, view[:length], base + a * columns * size)
        view = view[length:]
    values = np.frombuffer(buffer, dtype=_STORAGE[header.dtype]).reshape(-1, columns)
    if not contiguous:
        index = np.concatenate([np.arange(*span) for span in matrix.spans])
        values = np.take(values, index, axis=matrix.axis)
    return StoredMatrix(values, header.dtype)


def _read(descriptor: int, header: TensorHeader, view: memoryview, offset: int) -> None:
    while view:
        try:
            count = os.preadv(descriptor, [view], offset)
        except OSError as error:
            raise AnalysisError(f"{header.file}: tensor {header.name}: cannot be read: {error.strerror}") from error
        if count == 0:
            raise AnalysisError(
                f"{header.file}: tensor {header.name}: the file ends at byte {offset}, before the tensor does; "
                "it changed while it was read"
            )
        view = view[count:]
        offset += count
