"""What all places can do, and what those can that say so; a build into a place that nobody but tests has heard of."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.errors import StoreError
from merge_assets.settings import Settings
from merge_assets.store import ArtifactStore
from merge_assets.store.place import Objects, Parts, Place, Watch
from merge_assets.work import UNATTENDED
from tests.s3.rgw import Rgw
from tests.store_places import Lot, place, s3_endpoint
from tests.synthetic import read_tensors, write_llama

__all__ = ["place", "s3_endpoint"]

DATA = bytes(range(256)) * 4


@pytest.fixture
def there(place: Lot) -> Place:
    return place.store.place


@pytest.fixture
def objects(there: Place) -> Objects:
    if there.objects is None:
        pytest.skip("files are of this machine and not sent")
    return there.objects


@pytest.fixture
def parts(there: Place) -> Parts:
    if there.parts is None:
        pytest.skip("files are not put together of parts")
    return there.parts


@pytest.fixture
def watch() -> Watch:
    return Watch(UNATTENDED)


# All places


def test_where_nothing_was_written_there_is_nothing(there: Place) -> None:
    assert there.read("a/b") is None
    assert there.folders("a") == [] == there.listed("a")
    assert there.sizes("") == {}
    assert list(there.holding("a", "b")) == []
    for read in (lambda: there.open("a/b").read(), lambda: there.read_range("a/b", 0, 1)):
        with pytest.raises(StoreError, match=r"a/b.*(is missing|No such file)"):
            read()


def test_what_was_written_is_read_and_what_was_written_over_is_gone(there: Place, place: Lot) -> None:
    there.write({"a/b": b"old", "a/c/d": DATA})
    there.write({"a/b": b"new"})
    assert (there.read("a/b"), there.read("a/c/d")) == (b"new", DATA)
    assert (place.read("a/b"), place.read("a/c/d")) == (b"new", DATA)
    assert place.files() == {"a/b", "a/c/d"}


def test_any_range_of_a_file_is_read_and_none_beyond_its_end(there: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    there.write({"a/b": DATA})
    for begin, end in ((0, 1), (255, 258), (0, 1024), (1023, 1024), (7, 7)):
        assert there.read_range("a/b", begin, end) == DATA[begin:end]
    with pytest.raises(StoreError, match="a/b"):
        there.read_range("a/b", 1000, 1025)
    with there.open("a/b") as file:
        file.seek(1000)
        assert file.read() == DATA[1000:]


def test_files_are_listed_with_size_and_the_places_own_time(there: Place) -> None:
    there.write({"a/b": b"1", "a/c/d": b"22", "other/e": b"333"})
    before = there.now()
    assert {entry.path: entry.size for entry in there.listed("a")} == {"a/b": 1, "a/c/d": 2}
    assert {entry.path for entry in there.listed("")} == {"a/b", "a/c/d", "other/e"}
    assert there.sizes("a") == {"b": 1, "c/d": 2}
    assert all(abs((before - entry.changed).total_seconds()) < 3600 for entry in there.listed(""))
    there.write({"a/e/f/g": b""})
    assert sorted(there.folders("a")) == ["c", "e"]


def test_folders_that_hold_a_file_are_found_at_any_depth(there: Place) -> None:
    there.write(dict.fromkeys(("a/1/x.json", "a/b/2/x.json", "a/b/3/y.json", "c/x.json"), b""))
    assert sorted(there.holding("a", "x.json")) == ["a/1", "a/b/2"]
    assert sorted(there.holding("", "x.json")) == ["a/1", "a/b/2", "c"]


def test_what_was_removed_is_gone_and_may_be_removed_again(there: Place, place: Lot) -> None:
    there.write({"a/b": b"1", "a/c": b"2"})
    for _ in range(2):
        there.remove(["a/b", "never/there"])
    assert place.files() == {"a/c"}


def test_a_file_is_replaced_only_as_what_it_was_seen_to_be(there: Place, place: Lot) -> None:
    assert not there.replace("a/b", b"never there", b"x") and place.files() == set()
    assert there.replace("a/b", None, b"one") and place.read("a/b") == b"one"
    assert not there.replace("a/b", None, b"other")
    assert not there.replace("a/b", b"other", b"two") and place.read("a/b") == b"one"
    assert there.replace("a/b", b"one", b"two") and place.read("a/b") == b"two"
    assert not there.replace("a/b", b"one", None) and place.read("a/b") == b"two"
    assert there.replace("a/b", b"two", None) and place.files() == set()
    assert not there.replace("a/b", b"two", b"three")


def test_of_six_who_replace_the_same_at_once_one_succeeds(there: Place, place: Lot) -> None:
    replaced_by_one_of_six(there, place.read)


def replaced_by_one_of_six(there: Place, read: Callable[[str], bytes]) -> None:
    before: bytes | None = None
    for turn in range(4):
        done = race(there, before, turn)
        assert done == [read("a/b")]
        (before,) = done


def race(there: Place, before: bytes | None, turn: int) -> list[bytes]:
    """What those wrote who replaced ``a/b``."""
    ready, done = threading.Barrier(6), []

    def replace(number: int) -> None:
        mine = b"%d of turn %d" % (number, turn)
        ready.wait()
        if there.replace("a/b", before, mine):
            done.append(mine)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_of_six_who_replace_the_same_at_once_on_a_real_server_one_succeeds(rgw: Rgw, bucket: str) -> None:
    there = ArtifactStore(f"s3://{bucket}", rgw.options()).place
    replaced_by_one_of_six(there, lambda path: rgw.client().get_object(Bucket=bucket, Key=path)["Body"].read())


def test_versions_come_into_being_by_something_that_every_place_has(there: Place) -> None:
    assert (there.tree is None) != (there.objects is None)


# What some can do besides


def test_files_of_this_machine_lie_where_they_are_said_to(there: Place, tmp_path: Path) -> None:
    if there.tree is None:
        pytest.skip("no files of this machine")
    there.write({"a/b": DATA, "a/c": b"1"})
    path = there.tree.locate("a/b")
    assert path.read_bytes() == DATA
    os.link(path, tmp_path / "one more name")
    assert there.tree.freed(["a/b", "a/c", "never/there"]) == 1, "the bytes stay under the other name"


def test_a_file_is_created_by_one_of_many_who_try_at_once(objects: Objects, place: Lot) -> None:
    assert objects.exclusive
    ready, made = threading.Barrier(6), []

    def create(number: int) -> None:
        ready.wait()
        try:
            objects.create("a/b", b"%d" % number)
            made.append(b"%d" % number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [place.read("a/b")]


def test_files_are_sent_and_fetched_whole(objects: Objects, place: Lot, tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "here").write_bytes(DATA)
    objects.send(tmp_path / "here", "a/b", watch)
    assert place.read("a/b") == DATA
    objects.fetch("a/b", tmp_path / "back", watch)
    assert (tmp_path / "back").read_bytes() == DATA
    with pytest.raises(StoreError, match="never/there"):
        objects.fetch("never/there", tmp_path / "back", watch)


FIRST, SECOND = os.urandom(5 << 20), os.urandom(6 << 20)
"""S3 wants 5 MiB of every part but the last."""


def test_a_file_is_put_together_of_parts_that_were_sent_and_copied(parts: Parts, there: Place, place: Lot) -> None:
    there.write({"source": SECOND})
    upload = parts.begin("a/b")
    copied = parts.copy_part("a/b", upload, 2, "source", 1 << 20, 6 << 20)
    tags = [parts.put_part("a/b", upload, 1, FIRST), copied, parts.put_part("a/b", upload, 3, b"end")]
    assert parts.arrived("a/b", upload) == {1: (tags[0], 5 << 20), 2: (tags[1], 5 << 20), 3: (tags[2], 3)}
    assert [(one.path, one.id) for one in parts.uploads("a")] == [("a/b", upload)] and parts.uploads("other") == []
    assert parts.size("a/b") is None
    parts.assemble("a/b", upload, tags)
    assert place.read("a/b") == FIRST + SECOND[1 << 20 :] + b"end"
    assert parts.size("a/b") == (10 << 20) + 3
    assert parts.uploads("") == [] and parts.arrived("a/b", upload) is None
    with contextlib.suppress(FileNotFoundError):
        parts.assemble("a/b", upload, tags)
    assert parts.size("a/b") == (10 << 20) + 3


def test_an_upload_that_was_aborted_is_gone_with_its_parts(parts: Parts, place: Lot) -> None:
    upload = parts.begin("a/b")
    parts.put_part("a/b", upload, 1, b"half")
    for _ in range(2):
        parts.abort("a/b", upload)
    assert parts.uploads("") == [] and parts.arrived("a/b", upload) is None and place.files() == set()


def test_a_file_is_copied_whole(parts: Parts, there: Place, place: Lot) -> None:
    there.write({"source": DATA})
    parts.copy("source", "a/b")
    assert place.read("a/b") == DATA
    assert len(DATA) <= parts.largest_copy


def test_a_file_that_is_written_over_gets_another_tag(parts: Parts, there: Place) -> None:
    """Where the place has names for contents."""
    there.write({"source": DATA})
    tag = parts.tag("source")
    there.write({"source": DATA[::-1]})
    assert parts.tag("never/there") is None
    assert tag is None or parts.tag("source") != tag


def test_what_is_to_be_copied_and_is_not_there_is_named(parts: Parts) -> None:
    upload = parts.begin("a/b")
    copies: list[Callable[[], object]] = [
        lambda: parts.copy("never/there", "a/b"),
        lambda: parts.copy_part("a/b", upload, 1, "never/there", 0, 1),
    ]
    for copy in copies:
        with pytest.raises(StoreError, match="never/there"):
            copy()


# A place of one file


MEAN = """
merge_method: linear
models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: 3}}
"""
NEAR = """
merge_method: linear
models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: [{filter: layers.0., value: 5}, {value: 3}]}}
"""


def test_a_build_into_a_place_that_was_added_takes_the_tensors_that_are_there(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", seed=1)
    write_llama(tmp_path / "b", seed=2)
    (tmp_path / "recipes").mkdir()
    for name, text in (("mean", MEAN), ("near", NEAR)):
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)

    def build(store: str, name: str) -> api.Built:
        space = api.Workspace.open(Settings(root=tmp_path, store=store, cache_dir=tmp_path / "cache"))
        return api.build(space, space.recipe(name))

    url = f"shelf://{tmp_path.name}"
    build(url, "mean")
    near = build(url, "near")
    layer = sum(name.startswith("model.layers.0.") for name in (tensor.name for tensor in near.plan.tensors))
    assert near.report.tensors_computed == layer > 0
    assert near.report.tensors_reused == len(near.plan.tensors) - layer > 0
    clean = build(str(tmp_path / "clean"), "near")
    assert near.artifact.version == clean.artifact.version
    ours, theirs = (read_tensors(one.artifact.directory(tmp_path / "cache")) for one in (near, clean))
    assert {name: tensor.tolist() for name, tensor in ours.items()} == {n: t.tolist() for n, t in theirs.items()}
    assert build(url, "near").reused
