"""Read and validate the header of a safetensors file, as if its author were hostile.

Layout: 8 bytes little-endian header length N, N bytes of JSON ``{name: {dtype, shape, data_offsets}}``,
then the data. Offsets are relative to the data, cover it without gap or overlap, and fit the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

from merge_assets.checkpoint.tensors import DTYPES, TensorHeader
from merge_assets.errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000
"""Upper bound on the JSON part in bytes; the safetensors library has the same one."""

_MAX_DIMENSIONS = 64  # torch's own bound
_MAX_DIMENSION = 2**63 - 1
_KEYS = {"dtype", "shape", "data_offsets"}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DAMAGED = "the file is damaged or not a safetensors file; fetch it again"


class _DuplicateKeyError(ValueError):
    """A JSON object names a key twice."""


def load_json(raw: bytes, *, constants: bool = False) -> Any:
    """Parse JSON strictly: duplicate keys and halves of characters are errors, and so are NaN and Infinity.

    Args:
        raw: UTF-8.
        constants: take bare ``NaN``, ``Infinity`` and ``-Infinity`` for numbers, as Python's own writer puts them into the
            settings of models (Mamba2's ``time_step_limit``).

    Raises:
        ValueError: with a one-line reason.
    """
    try:
        content = json.loads(
            raw.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_constant=float if constants else _no_constant,
        )
        if _SURROGATE.search(raw):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("an escape such as \\ud800 is only half of a character") from None
    return content


def header_length(raw: bytes, file: str, file_size: int) -> int:
    """The number of leading bytes of a safetensors file that :func:`parse_header` needs.

    Args:
        raw: at least the first 8 bytes of the file.
        file: the file's name, for errors.
        file_size: bytes of the whole file.

    Raises:
        CheckpointError: if the length does not fit the file or exceeds :data:`MAX_HEADER`.
    """
    if file_size < LENGTH_BYTES or len(raw) < LENGTH_BYTES:
        raise CheckpointError(f"{file}: {min(file_size, len(raw))} bytes are too few for a header; {_DAMAGED}")
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"{file}: header length {length} exceeds {MAX_HEADER} bytes; {_DAMAGED}")
    if LENGTH_BYTES + length > file_size:
        raise CheckpointError(f"{file}: header length {length} exceeds the file's {file_size} bytes; {_DAMAGED}")
    return LENGTH_BYTES + length


def parse_header(raw: bytes, file: str, file_size: int) -> tuple[list[TensorHeader], dict[str, str]]:
    """Turn the leading bytes of a safetensors file into tensor headers.

    Args:
        raw: the leading bytes, at least as many as :func:`header_length` says.
        file: the file's name relative to its checkpoint; stored in the headers and named in errors.
        file_size: bytes of the whole file, against which every offset is checked.

    Returns:
        The tensors in order of their data, and the file's ``__metadata__``.

    Raises:
        CheckpointError: naming the file, the tensor if one is at fault, and what to do.
    """
    data = header_length(raw, file, file_size)
    if len(raw) < data:
        raise CheckpointError(f"{file}: {len(raw)} of {data} header bytes could be read; {_DAMAGED}")
    try:
        entries = load_json(raw[LENGTH_BYTES:data])
    except _DuplicateKeyError as error:
        raise CheckpointError(f"{file}: the header {error}; save the checkpoint again with distinct names") from None
    except ValueError as error:
        raise CheckpointError(f"{file}: the header is not JSON ({error}); {_DAMAGED}") from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file}: the header is not a JSON object; {_DAMAGED}")
    metadata = _metadata(entries.pop("__metadata__", {}), file)
    tensors = [_tensor(name, entry, file, data, file_size) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_layout(tensors, file, data, file_size)
    return tensors, metadata


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _DuplicateKeyError(f"names {twice!r} twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _metadata(entry: object, file: str) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise CheckpointError(f"{file}: __metadata__ must map strings to strings; save the checkpoint again")
    return entry


def _tensor(name: str, entry: object, file: str, data: int, file_size: int) -> TensorHeader:
    """Validate one header entry; ``data`` is the offset of the data in the file."""

    def fail(problem: str, remedy: str = _DAMAGED) -> CheckpointError:
        return CheckpointError(f"{file}: tensor {name!r}: {problem}; {remedy}")

    if not name.isprintable():
        raise fail("its name has characters that cannot be printed", "rename it and save the checkpoint again")
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise fail(f"its entry must have exactly the keys {', '.join(sorted(_KEYS))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise fail(f"dtype {dtype!r} is not read", f"convert the checkpoint to one of {known}")
    if not _is_integers(shape) or len(shape) > _MAX_DIMENSIONS or any(n < 0 or n > _MAX_DIMENSION for n in shape):
        raise fail(f"shape {_short(shape)} is not a list of at most {_MAX_DIMENSIONS} dimensions of 0 or more")
    if not _is_integers(offsets) or len(offsets) != 2:
        raise fail(f"data_offsets {_short(offsets)} are not two whole numbers")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise fail(f"data_offsets [{begin}, {end}] are negative or reversed")
    if data + end > file_size:
        raise fail(f"data_offsets [{begin}, {end}] exceed the {file_size - data} data bytes of the file")
    header = TensorHeader(name, dtype, tuple(shape), file, data + begin, data + end)
    expected = header.numel * DTYPES[dtype]
    if expected != header.nbytes:
        raise fail(f"{dtype} of shape {_short(shape)} takes {expected} bytes but has {header.nbytes}")
    return header


def _check_layout(tensors: Sequence[TensorHeader], file: str, data: int, file_size: int) -> None:
    """The tensors, sorted by offset, must cover ``data`` to ``file_size`` exactly once."""
    at, before = data, "the header"
    for tensor in tensors:
        if tensor.begin != at:
            problem = "overlaps" if tensor.begin < at else f"leaves a gap of {tensor.begin - at} bytes after"
            raise CheckpointError(f"{file}: tensor {tensor.name!r} {problem} {before}; {_DAMAGED}")
        at, before = tensor.end, f"tensor {tensor.name!r}"
    if at != file_size:
        raise CheckpointError(f"{file}: {file_size - at} bytes after {before} belong to no tensor; {_DAMAGED}")


def _is_integers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
