"""``parse_header`` reads what the safetensors library writes and refuses every malformed header.

A refusal is one CheckpointError that names the file and, where one is at fault, the tensor, and says what to do.
"""

import json
from math import prod

import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy import arange, zeros

from merge_assets.checkpoint import DTYPES, TORCH_NAMES, TensorHeader, header_length, parse_header
from merge_assets.checkpoint.header import MAX_HEADER
from merge_assets.errors import CheckpointError
from tests.checkpoint_support import raw_file, tensor_file

BYTE = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def entry(dtype: object = "U8", shape: object = (1,), offsets: object = (0, 1)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def parse(raw: bytes) -> list[TensorHeader]:
    return parse_header(raw, "m.safetensors", len(raw))[0]


def test_headers_written_by_the_safetensors_library() -> None:
    arrays = {"a.weight": arange(6, dtype="float32").reshape(2, 3), "scalar": zeros((), "int64"), "none": zeros((0, 4))}
    raw = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    tensors, metadata = parse_header(raw, "m.safetensors", len(raw))
    assert metadata == {"format": "pt"}
    assert {tensor.name for tensor in tensors} == set(arrays)
    for tensor in tensors:
        array = arrays[tensor.name]
        assert raw[tensor.begin : tensor.end] == array.tobytes()
        assert (tensor.shape, tensor.numel, tensor.nbytes) == (array.shape, array.size, array.nbytes)


def test_only_the_leading_bytes_are_needed() -> None:
    raw = tensor_file({"x": ("F16", [500], 1000)})
    leading = raw[: header_length(raw[:8], "m.safetensors", len(raw))]
    assert len(leading) < 100
    assert parse_header(leading, "m.safetensors", len(raw)) == parse_header(raw, "m.safetensors", len(raw))


def test_dtype_sizes_and_names_agree_with_torch() -> None:
    import torch

    assert DTYPES.keys() == TORCH_NAMES.keys()
    for code, name in TORCH_NAMES.items():
        assert getattr(torch, name).itemsize == DTYPES[code], code


@pytest.mark.parametrize(
    ("entries", "data", "says"),
    [
        pytest.param({"x": entry(offsets=[0, 2])}, b"1", "exceed the 1 data bytes", id="end beyond the file"),
        pytest.param({"x": entry(offsets=[-1, 0])}, b"1", "negative or reversed", id="negative offset"),
        pytest.param({"x": entry(offsets=[1, 0])}, b"1", "negative or reversed", id="reversed offsets"),
        pytest.param({"x": entry(offsets=[0, 2**70])}, b"1", "exceed", id="huge offset"),
        pytest.param({"x": entry(offsets=[0.0, 1.0])}, b"1", "not two whole numbers", id="fractional offsets"),
        pytest.param({"x": entry(offsets=[False, True])}, b"1", "not two whole numbers", id="boolean offsets"),
        pytest.param({"x": entry(offsets=[0])}, b"1", "not two whole numbers", id="one offset"),
        pytest.param({"w": BYTE, "x": BYTE}, b"1", "overlaps tensor 'w'", id="two tensors at one place"),
        pytest.param(
            {"w": entry(shape=[2], offsets=[0, 2]), "x": entry(shape=[2], offsets=[1, 3])},
            b"123",
            "overlaps tensor 'w'",
            id="partial overlap",
        ),
        pytest.param(
            {"w": BYTE, "x": entry(offsets=[2, 3])}, b"123", "gap of 1 bytes after tensor 'w'", id="gap between"
        ),
        pytest.param({"x": entry(offsets=[1, 2])}, b"12", "gap of 1 bytes after the header", id="gap at the start"),
        pytest.param({"x": entry(dtype="F4")}, b"1", "dtype 'F4'", id="sub-byte dtype"),
        pytest.param({"x": entry(dtype="float32")}, b"1", "dtype 'float32'", id="unknown dtype"),
        pytest.param({"x": entry(dtype=["U8"])}, b"1", "dtype ['U8']", id="dtype of wrong type"),
        pytest.param({"x": entry(shape=[2])}, b"1", "takes 2 bytes but has 1", id="shape product"),
        pytest.param({"x": entry(shape=[2**40, 2**40])}, b"1", f"takes {2**80} bytes", id="product beyond 64 bits"),
        pytest.param({"x": entry(shape=[0, 2**70], offsets=[0, 0])}, b"", "dimensions", id="dimension beyond 64 bits"),
        pytest.param({"x": entry(shape=[-1])}, b"1", "dimensions", id="negative dimension"),
        pytest.param({"x": entry(shape=[-1, -1])}, b"1", "dimensions", id="two negative dimensions"),
        pytest.param({"x": entry(shape=[1] * 65)}, b"1", "at most 64 dimensions", id="too many dimensions"),
        pytest.param({"x": entry(shape="1")}, b"1", "dimensions", id="shape of wrong type"),
        pytest.param({"x": entry(shape=[True])}, b"1", "dimensions", id="boolean dimension"),
        pytest.param({"x": {"dtype": "U8", "shape": [1]}}, b"1", "exactly the keys", id="offsets missing"),
        pytest.param({"x": {**BYTE, "extra": 1}}, b"1", "exactly the keys", id="extra key"),
        pytest.param({"x": [1]}, b"1", "exactly the keys", id="entry is a list"),
        pytest.param({"x\n": BYTE}, b"1", "cannot be printed", id="line break in a name"),
    ],
)
def test_a_bad_entry_is_refused_by_name(entries: dict[str, object], data: bytes, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(raw_file(entries, data))
    message = str(caught.value)
    assert message.startswith("m.safetensors: tensor 'x")
    assert says in message
    assert ";" in message, "the remedy follows a semicolon"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"", "too few", id="empty file"),
        pytest.param(b"1234567", "too few", id="no room for the length"),
        pytest.param(raw_file({"x": BYTE}, b"1", length=10**6), "exceeds the file's", id="length beyond the file"),
        pytest.param(raw_file(b"", length=MAX_HEADER + 1), f"exceeds {MAX_HEADER}", id="length beyond the cap"),
        pytest.param(raw_file(b"", length=2**64 - 1), f"exceeds {MAX_HEADER}", id="largest length"),
        pytest.param(raw_file({"x": BYTE}, b"1", length=20), "not JSON", id="length too short"),
        pytest.param(raw_file(b"PK\x03\x04 a zip file"), "not JSON", id="another format"),
        pytest.param(raw_file(b'{"x": NaN}'), "not JSON", id="NaN"),
        pytest.param(raw_file(b"[" * 100_000), "not JSON", id="deep nesting"),
        pytest.param(raw_file(b'{"x": ' + b"1" * 10_000 + b"}"), "not JSON", id="number of 10000 digits"),
        pytest.param(raw_file(b"\xff\xfe{}"), "not JSON", id="not UTF-8"),
        pytest.param(raw_file({"x\ud800": BYTE}, b"1"), "half of a character", id="lone surrogate in a name"),
        pytest.param(raw_file([1]), "not a JSON object", id="a list"),
        pytest.param(raw_file({"__metadata__": {"format": 1}}), "__metadata__", id="metadata of numbers"),
        pytest.param(raw_file({"x": BYTE}, b"12"), "1 bytes after tensor 'x'", id="bytes after the last tensor"),
        pytest.param(raw_file({}, b"1"), "1 bytes after the header", id="data without tensors"),
        pytest.param(
            raw_file(b'{"x": %b, "x": %b}' % ((json.dumps(BYTE).encode(),) * 2), b"1"), "'x' twice", id="name twice"
        ),
    ],
)
def test_a_bad_file_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(raw)
    message = str(caught.value)
    assert message.startswith("m.safetensors: ")
    assert says in message
    assert ";" in message


def test_a_truncated_file_is_refused() -> None:
    raw = tensor_file({"x": ("F32", [4], 16)})
    for size in range(len(raw)):
        with pytest.raises(CheckpointError):
            parse(raw[:size])


@given(st.binary(max_size=60), st.integers(0, 70))
def test_any_bytes_are_read_or_refused(data: bytes, length: int) -> None:
    """No input raises anything but CheckpointError; what is accepted lies within the file."""
    raw = length.to_bytes(8, "little") + data
    try:
        tensors = parse(raw)
    except CheckpointError:
        return
    assert all(8 + length <= tensor.begin <= tensor.end <= len(raw) for tensor in tensors)


TENSORS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.tuples(st.sampled_from(["U8", "BF16", "F32", "I64"]), st.lists(st.integers(0, 3), max_size=3)),
    min_size=1,
)


@given(TENSORS, st.sampled_from(["dtype", "shape", "data_offsets", "nothing"]), st.integers(0, 3), st.integers(-3, 3))
def test_what_is_accepted_the_safetensors_library_accepts(
    tensors: dict[str, tuple[str, list[int]]], spoilt: str, which: int, by: int
) -> None:
    """Of well-formed headers and headers with one value changed; and no well-formed one is refused."""
    entries = {name: (dtype, shape, DTYPES[dtype] * prod(shape)) for name, (dtype, shape) in tensors.items()}
    good = tensor_file(entries)
    size = header_length(good, "m.safetensors", len(good))
    header = json.loads(good[8:size])
    victim = list(header.values())[which % len(header)]
    if spoilt == "dtype":
        victim["dtype"] = ["F16", "U8", "F64"][by % 3]
    elif spoilt != "nothing" and victim[spoilt]:
        victim[spoilt][which % len(victim[spoilt])] += by
    raw = raw_file(header, good[size:])
    try:
        accepted = parse(raw)
    except CheckpointError:
        assert raw != good
        return
    loaded = dict(safetensors.deserialize(raw))
    assert {t.name: (t.dtype, list(t.shape), raw[t.begin : t.end]) for t in accepted} == {
        name: (each["dtype"], each["shape"], bytes(each["data"])) for name, each in loaded.items()
    }
