"""Contract of taking finished bytes from the store: where they are looked for, and how much of them is read before."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from merge_assets.errors import Stopped, StoreError
from merge_assets.records import Details
from merge_assets.store import ArtifactStore
from merge_assets.store.manifest import Piece
from merge_assets.store.place.s3 import S3Place
from merge_assets.store.planned import Origin, PlannedFile, PlannedPiece
from merge_assets.store.reuse import Verify, sample, verified
from merge_assets.work import Work
from tests.block_digest import block_digest

HEAD = b"head"
MIB = 1 << 20

Files = Mapping[str, Mapping[str, bytes]]
"""Name of a file -> name of a piece -> its bytes."""


def key_of(name: str) -> str:
    """Of a piece: the same name in two versions means the same bytes."""
    return hashlib.sha256(name.encode()).hexdigest()


def commit(store: ArtifactStore, line: str, version: str, files: Files) -> Path:
    """A version of such files; returns its folder."""
    with store.build(line, f"key-{version}") as draft:
        for name, pieces in files.items():
            planned, at = [], len(HEAD)
            for piece, data in pieces.items():
                planned.append(PlannedPiece(piece, at, at + len(data), key_of(piece)))
                at += len(data)
            draft.building.add([PlannedFile(name, HEAD, tuple(planned))], {})
            with (draft.directory / name).open("r+b") as file:
                file.seek(len(HEAD))
                file.write(b"".join(pieces.values()))
            for piece in pieces:
                draft.building.landed(piece, 0)
        return Path(draft.commit(version, key=f"key-{version}", inputs=[], details=Details()).url)


def spoil(file: Path, at: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(len(HEAD) + at)
        stream.write(b"X")


def found(store: ArtifactStore, *names: str, line: str = "variants/new") -> dict[str, Origin]:
    """Where pieces of these names lie."""
    origins = store.origins({key_of(name) for name in names}, line)
    return {name: origins[key_of(name)] for name in names if key_of(name) in origins}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


# -- where bytes are looked for ----------------------------------------------------------------------------------------------


def one(*names: str) -> Files:
    """A file of these pieces."""
    return {"a.bin": {name: name.encode() * 100 for name in names}}


def test_pieces_come_from_the_lines_own_newest_version_then_from_older_ones_then_from_neighbours(
    store: ArtifactStore,
) -> None:
    commit(store, "variants/twin", "t1", one("u", "v", "w", "x"))
    commit(store, "variants/mine", "m1", one("v", "w"))
    commit(store, "variants/mine", "m2", one("w"))
    commit(store, "scores/other", "o1", one("y"))
    places = {name: origin.path for name, origin in found(store, "u", "v", "w", "y", line="variants/mine").items()}
    assert places == {
        "u": "variants/twin/t1/a.bin",
        "v": "variants/mine/m1/a.bin",
        "w": "variants/mine/m2/a.bin",
    }


def test_what_stands_before_the_first_piece_and_pieces_of_other_keys_are_no_origins(store: ArtifactStore) -> None:
    commit(store, "variants/twin", "t1", one("u", "v"))
    assert store.origins({key_of("v"), ""}, "variants/mine").keys() == {key_of("v")}


def test_a_version_with_a_file_cut_short_is_no_origin(store: ArtifactStore) -> None:
    folder = commit(store, "variants/twin", "t1", {"a.bin": {"u": b"u"}, "b.bin": {"v": b"v"}})
    commit(store, "variants/whole", "w1", one("v"))
    with (folder / "a.bin").open("r+b") as file:
        file.truncate(len(HEAD))
    assert {name: origin.path for name, origin in found(store, "u", "v").items()} == {"v": "variants/whole/w1/a.bin"}


# -- how much is read before -------------------------------------------------------------------------------------------------


SIZES = {"small": 10, "large": 5000}
"""Of the pieces of a file, bytes: a thousandth of the file is room for no second one."""


@pytest.mark.parametrize(
    ("verify", "spoilt", "noticed"),
    [
        ("full", "small", True),
        ("full", "large", True),
        ("sampled", "small", True),
        ("sampled", "large", False),
        ("off", "small", False),
        ("off", "large", False),
    ],
)
def test_a_damaged_file_is_not_reused_as_far_as_it_is_read(
    verify: Verify, spoilt: str, noticed: bool, store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    """``full`` reads all, ``sampled`` the smallest piece of every file, ``off`` nothing; other files stay."""
    files = {file: {f"{size} {file}": bytes(SIZES[size]) for size in SIZES} for file in ("a.bin", "b.bin")}
    folder = commit(store, "variants/twin", "t1", files)
    names = [name for pieces in files.values() for name in pieces]
    origins = found(store, *names)
    assert list(store.sound(origins, verify)) == names
    assert caplog.messages == []
    spoil(folder / "a.bin", SIZES["small"] if spoilt == "large" else 0)
    assert list(store.sound(origins, verify)) == (names[2:] if noticed else names)
    said = f"{folder}/a.bin is damaged and nothing of it is reused; run `merge-assets store verify`"
    assert caplog.messages == ([said] if noticed else [])


def test_damaged_files_are_named_in_order_and_one_that_cannot_be_read_is_among_them(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    files = {f"{letter}.bin": {letter: letter.encode() * 100} for letter in "gcaebfd"}
    folder = commit(store, "variants/twin", "t1", files)
    origins = found(store, *"gcaebfd")
    for letter in "gcaef":
        spoil(folder / f"{letter}.bin", 50)
    (folder / "b.bin").unlink()
    assert list(store.sound(origins, "full")) == ["d"]
    assert f"{folder}/b.bin: cannot be read: No such file or directory" in caplog.messages
    damaged = [text.split(" ")[0] for text in caplog.messages if "is damaged" in text]
    assert damaged == [f"{folder}/{letter}.bin" for letter in "abcefg"]


def test_a_piece_that_is_wanted_under_two_names_is_read_once_and_reused_under_both(store: ArtifactStore) -> None:
    looks = 0

    def looked() -> bool:
        nonlocal looks
        looks += 1
        return False

    commit(store, "variants/twin", "t1", {"a.bin": {"u": b"u" * 100, "v": b"v" * 100}})
    origins = found(store, "u", "v")
    origins["again"] = origins["u"]
    assert store.sound(origins, "full", Work(should_stop=looked)) == origins
    assert looks == 2


@pytest.mark.parametrize("after", [0, 1])
def test_a_stop_request_is_heard_before_every_piece(after: int, store: ArtifactStore) -> None:
    commit(store, "variants/twin", "t1", one("u", "v"))
    answers = iter([False] * after + [True] * 9)
    with pytest.raises(Stopped, match="stopped while looking at what can be reused"):
        store.sound(found(store, "u", "v"), "full", Work(should_stop=lambda: next(answers)))


# -- a sample ----------------------------------------------------------------------------------------------------------------


def pieces_of(sizes: Sequence[int]) -> list[Piece]:
    edges = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    return [Piece(f"p{n}", edges[n], edges[n + 1], "00" * 32) for n in range(len(sizes))]


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([7], [7]),
        ([9, 8, 7, 8, 9], [7]),
        ([3, 9990, 3, 1, 3], [1, 3, 3, 3]),  # of 10,000 bytes, 10 beside the smallest piece
        ([4, 4, 9987, 4, 1], [1, 4, 4]),
        ([5, 9989, 5, 1], [1, 5, 5]),
        ([5, 9988, 5, 1], [1, 5]),  # of 9,999 bytes, 9
        ([9990, 4, 11, 11, 4], [4, 4]),
        ([0, 9, 0, 8], [8]),  # of what is empty nothing can be read
        ([0, 0], []),
    ],
)
def test_a_sample_is_the_smallest_piece_and_a_thousandth_of_the_bytes(sizes: list[int], chosen: list[int]) -> None:
    for _ in range(10):
        assert sorted(piece.size for piece in sample(pieces_of(sizes))) == chosen


def test_every_piece_that_fits_is_in_a_sample_once_in_a_while() -> None:
    random.seed(0)
    pieces = pieces_of([1, *[8] * 5, 9959])
    drawn = Counter(piece.name for _ in range(500) for piece in sample(pieces))
    assert drawn.keys() == {f"p{number}" for number in range(6)}
    assert drawn["p0"] == 500
    assert all(70 <= drawn[f"p{number}"] <= 130 for number in range(1, 6)), "one of five at a time"


# -- in a bucket -------------------------------------------------------------------------------------------------------------


class Bucket(S3Place):
    """A bucket whose files are given, and come garbled so many times.

    Attributes:
        ranges: that were read.
    """

    def __init__(self, data: bytes, garbled: int = 0) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._data, self._garbled = data, garbled

    def url(self, path: str) -> str:
        return f"s3://bucket/{path}"

    def read_range(self, path: str, begin: int, end: int) -> bytes:
        if path == "unreachable":
            raise StoreError(f"{path}: cannot be reached")
        self.ranges.append((begin, end))
        data = self._data[begin:end]
        return data if len(self.ranges) > self._garbled else bytes(len(data))


def origin(data: bytes, begin: int, end: int, path: str = "a.bin") -> Origin:
    piece = Piece("p", begin, end, block_digest(data[begin:end]))
    return Origin(path, piece, (piece,), {})


@pytest.mark.parametrize(("garbled", "sound", "looks"), [(0, True, 1), (1, True, 2), (2, True, 3), (3, False, 3)])
def test_a_piece_in_a_bucket_is_damaged_if_it_comes_wrong_three_times(garbled: int, sound: bool, looks: int) -> None:
    data = random.Random(1).randbytes(1000)
    bucket = Bucket(data, garbled)
    origins = {"p": origin(data, 100, 900)}
    assert verified(bucket, origins, "full") == (origins if sound else {})
    assert bucket.ranges == [(100, 900)] * looks


def test_a_large_piece_in_a_bucket_is_read_in_ranges_of_four_mebibytes() -> None:
    data = random.Random(1).randbytes(9 * MIB)
    bucket = Bucket(data)
    origins = {"p": origin(data, MIB, 9 * MIB + 1 - MIB)}
    assert verified(bucket, origins, "full") == origins
    assert bucket.ranges == [(MIB, 5 * MIB), (5 * MIB, 8 * MIB + 1)]


def test_a_file_in_a_bucket_that_cannot_be_read_is_not_reused(caplog: pytest.LogCaptureFixture) -> None:
    data = random.Random(1).randbytes(1000)
    origins = {"gone": origin(data, 0, 500, "unreachable"), "there": origin(data, 0, 500)}
    with caplog.at_level(logging.WARNING):
        assert list(verified(Bucket(data), origins, "full")) == ["there"]
    assert caplog.messages[0] == "unreachable: cannot be reached"
