"""Housekeeping of a store: what garbage collection may remove, and that nobody ever sees half of it.

It never removes a line's current version, what a current version was made from, what a recipe pins, what a running build
uses, or what is young. A version stops existing before its files go; whoever is killed in between leaves files of no
version, which the next one removes. Builds and other collections may run at the same time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.errors import Stopped, StoreError
from merge_assets.records import Details
from merge_assets.store import Artifact, ArtifactStore, PlannedFile, PlannedPiece
from merge_assets.store.collect import Done, carry_out, lifecycle_rule, plan_collection, plan_removal
from merge_assets.store.inventory import survey
from merge_assets.store.names import STORE
from merge_assets.store.needs import Name
from merge_assets.store.place.fsspec import FsspecPlace
from merge_assets.store.renamed import RenamedVersions
from merge_assets.store.superseded import clear_superseded
from tests.s3.rgw import Rgw, bucket, rgw
from tests.store_places import Lot
from tests.store_support import commit, made_from

__all__ = ["bucket", "rgw"]

NOW = timedelta(0)
LINES = ["variants/a", "variants/b", "checkpoints/org/base", "scores/a/demo"]
HEAD = b"h" * 64
PART = 5 << 20


@dataclass
class Place(Lot):
    """A place of which the store itself tells what lies there."""

    kind: str

    def files(self) -> set[str]:
        return {entry.path for entry in self.store.place.listed("")} - {STORE}


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.server)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path / "store"), {}, tmp_path / "scratch", "local")
    if request.param == "memory":
        return Place(f"memory://{uuid.uuid4().hex}/store", {}, tmp_path / "scratch", "memory")
    server: Rgw = request.getfixturevalue("rgw")
    name: str = request.getfixturevalue("bucket")
    return Place(f"s3://{name}/some/prefix", server.options(), tmp_path / "scratch", "s3")


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builders are taken for dead as soon as they are silent."""
    monkeypatch.setattr("merge_assets.store.inventory.DEAD", NOW)


def collect(
    store: ArtifactStore, keep: int = 1, older_than: timedelta | None = NOW, pinned: Mapping[Name, str] | None = None
) -> Done:
    plan = plan_collection(survey(store), keep=keep, older_than=older_than, pinned=pinned or {})
    return carry_out(store, plan)


def names(store: ArtifactStore) -> set[Name]:
    return {stored.name for stored in survey(store).everything}


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def build(
    store: ArtifactStore,
    line: str,
    version: str,
    pieces: Mapping[str, bytes],
    *,
    begun: Callable[[], None] | None = None,
    taken: Callable[[], None] | None = None,
) -> Artifact:
    """A version of pieces, each keyed by its name and taken from where the store has it.

    Args:
        begun: called once it is known where pieces lie.
        taken: called once those are taken and the rest is to be computed.
    """
    planned, at = [], len(HEAD)
    for name, data in pieces.items():
        planned.append(PlannedPiece(name, at, at + len(data), key_of(name)))
        at += len(data)
    found = store.origins({piece.key for piece in planned}, line)
    origins = {piece.name: found[piece.key] for piece in planned if piece.key in found}
    if begun:
        begun()
    with store.build(line, f"key-{version}") as draft:
        draft.building.add([PlannedFile("model.safetensors", HEAD, tuple(planned))], origins)
        if taken:
            taken()
        with (draft.directory / "model.safetensors").open("r+b", buffering=0) as file:
            for piece in planned:
                if piece.name not in draft.building.finished:
                    file.seek(piece.begin)
                    file.write(pieces[piece.name])
                    draft.building.landed(piece.name, 0)
        (draft.directory / "config.json").write_text("{}")
        return draft.commit(version, key=f"key-{version}", inputs=[], details=Details())


def assert_sound(store: ArtifactStore) -> None:
    for stored in survey(store).everything:
        assert store.verify(stored.artifact) == []


# What stays


def test_the_newest_and_the_current_stay_and_the_rest_goes(place: Place) -> None:
    for version in ("1f", "2f", "3f", "4f"):
        commit(place.store, version, key=version)
    place.store.set_current("variants/slerp-7b", "1f")
    done = collect(place.store, keep=2)
    assert [stored.artifact.version for stored in done.removed] == ["2f"]
    assert {version for _, version in names(place.store)} == {"1f", "3f", "4f"}
    assert_sound(place.store)
    assert not {path for path in place.files() if "2f" in path}
    assert done.freed >= sum(len(data) for data in (b"{}", bytes(range(256)) * 40))
    again = collect(place.store, keep=2)
    assert (again.removed, again.litter, again.freed) == ([], [], 0)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, str, list[int]]]:
    """Commits in order: a line, a version and earlier commits that it was made from."""
    length = draw(st.integers(1, 12))
    return [
        (
            draw(st.integers(0, len(LINES) - 1)),
            draw(st.sampled_from(["1f", "2f", "3f", "4f", "5f"])),
            draw(st.lists(st.integers(0, number - 1), max_size=2, unique=True)) if number else [],
        )
        for number in range(length)
    ]


@pytest.mark.slow
@given(
    history=histories(),
    moves=st.lists(st.integers(0, 11), max_size=4),
    pins=st.lists(st.integers(0, 11), max_size=2),
    keep=st.integers(1, 3),
    remote=st.booleans(),
)
@settings(max_examples=30)
def test_exactly_what_is_needed_stays(
    history: list[tuple[int, str, list[int]]], moves: list[int], pins: list[int], keep: int, remote: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = f"memory://{uuid.uuid4().hex}" if remote else folder
        store = ArtifactStore(root, scratch=Path(folder, "scratch"))
        sources: dict[Name, set[Name]] = {}
        current: dict[str, str] = {}
        for number, (place, version, parents) in enumerate(history):
            line = LINES[place]
            # A version's name is the digest of its content: what two lines call the same has the same inputs or none.
            inputs = {(LINES[history[n][0]], history[n][1]) for n in parents} - {(line, version)}
            titles = {f"{source.partition('/')[2]}+adapter{n}": v for n, (source, v) in enumerate(sorted(inputs))}
            if (line, version) not in sources:
                titles |= {"somewhere/else": "no version of the store"}
            commit(store, version, line=line, key=f"k{number}", inputs=made_from(titles))
            sources.setdefault((line, version), inputs)
            current[line] = version
        committed = [(LINES[place], version) for place, version, _ in history]
        for move in moves:
            line, version = committed[move % len(committed)]
            store.set_current(line, version)
            current[line] = version
        pinned = {committed[pin % len(committed)]: "pinned" for pin in pins}
        newest = {
            (line, one.version) for line in {line for line, _ in committed} for one in store.versions(line)[-keep:]
        }

        expected = set(current.items())
        while more := {source for name in expected for source in _resolved(sources, name)} - expected:
            expected |= more
        expected |= newest | pinned.keys()
        collect(store, keep, pinned=pinned)
        assert names(store) == expected
        assert {line: store.current(line).version for line in current} == current  # type: ignore[union-attr]
        assert_sound(store)
        left = survey(store)
        assert (left.damaged, left.unfinished, left.leftovers, left.keys) == ([], [], [], left.keys)
        assert {line for line, _ in left.keys} <= {line for line, _ in expected}
        again = collect(store, keep, pinned=pinned)
        assert (again.removed, again.litter) == ([], [])


def _resolved(sources: Mapping[Name, set[Name]], name: Name) -> set[Name]:
    """Inputs of a version: those of scores are known by fingerprint alone, in whichever lines have it."""
    found = set()
    for line, version in sources[name]:
        if line.startswith(("variants/", "checkpoints/")):
            found.add((line, version))
        else:
            found |= {other for other in sources if other[1] == version and other != name}
    return found


def test_what_is_young_or_was_current_until_a_moment_ago_stays(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    for version in ("1f", "2f", "3f", "4f"):
        commit(store, version, key=version)
    assert collect(store, older_than=None).removed == []
    for version, hours in (("1f", 9), ("2f", 8), ("3f", 7)):
        then = time.time() - hours * 3600
        os.utime(tmp_path / "variants/slerp-7b" / version / "manifest.json", (then, then))
    plan = plan_collection(survey(store), keep=1, older_than=None, pinned={})
    assert {version for _, version in plan.kept} == {"3f", "4f"}
    assert plan.kept["variants/slerp-7b", "3f"] == ["replaced a moment ago"]


def test_a_damaged_manifest_stops_the_collection_and_is_named(place: Place) -> None:
    for version in ("1f", "2f", "3f"):
        commit(place.store, version, key=version)
    there = place.store.place
    for path in ("variants/slerp-7b/1f/manifest.json", "variants/slerp-7b/current.json"):
        good = there.read(path)
        there.write({path: b'{"half": '})
        with pytest.raises(StoreError, match=rf"{path.removesuffix('/manifest.json')}.* nothing is removed"):
            collect(place.store)
        there.write({path: good or b""})
    assert len(collect(place.store).removed) == 2


def test_files_that_are_not_of_the_store_are_left_alone(place: Place) -> None:
    for version in ("1f", "2f"):
        commit(
            place.store, version, key=version, files={"sub/manifest.json": b"{}", "keys/x.json": b"", "builds/b/c": b""}
        )
    foreign = {"notes.txt", "variants/readme.md", "variants/slerp-7b/odd/file.bin", "other/manifest.txt"}
    place.store.place.write(dict.fromkeys(foreign, b"mine"))
    assert len(collect(place.store).removed) == 1
    assert foreign <= place.files()
    assert_sound(place.store)


# Being killed


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_killed_at_any_step_it_leaves_no_half_version_and_the_next_one_clears_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_grace: None
) -> None:
    class Killed(BaseException):
        pass

    steps = 0
    for stop in range(100):
        root = str(tmp_path / f"store{stop}") if kind == "local" else f"memory://{uuid.uuid4().hex}"
        place = Place(root, {}, tmp_path / "scratch", kind)
        for version in ("1f", "2f", "3f"):
            commit(place.store, version, key=version)
        steps = 0

        def step(stop: int = stop) -> None:
            nonlocal steps
            steps += 1
            if steps > stop:
                raise Killed

        with monkeypatch.context() as patch:
            _before_each_removal(patch, step)
            try:
                collect(place.store)
            except Killed:
                pass
            else:
                break
        listed = names(place.store)
        assert ("variants/slerp-7b", "3f") in listed
        assert_sound(place.store)
        collect(place.store)
        assert names(place.store) == {("variants/slerp-7b", "3f")}
        assert not {path for path in place.files() if "1f" in path or "2f" in path}
        left = collect(place.store)
        assert (left.removed, left.litter) == ([], [])
    assert steps >= 4, "nothing was interrupted"


def _before_each_removal(patch: pytest.MonkeyPatch, step: Callable[[], None]) -> None:
    remove, withdraw, erase = FsspecPlace.remove, RenamedVersions.withdraw, RenamedVersions.erase

    def remove_one_by_one(self: FsspecPlace, paths: Any) -> None:
        for path in paths:
            step()
            remove(self, [path])

    patch.setattr(FsspecPlace, "remove", remove_one_by_one)
    patch.setattr(RenamedVersions, "withdraw", lambda self, manifest: (step(), withdraw(self, manifest))[1])
    patch.setattr(RenamedVersions, "erase", lambda self, *arguments: (step(), erase(self, *arguments))[1])


# At the same time


def test_a_version_that_is_taken_up_while_it_is_removed_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(place.store, "1f", key="1f")
    commit(place.store, "2f", key="2f")
    publishing = type(place.store.publishing)
    withdraw = publishing.withdraw

    def then_it_becomes_current(self: Any, manifest: Any) -> str | None:
        folder = withdraw(self, manifest)
        assert place.store.get("variants/slerp-7b", "1f") is None
        place.store.place.write({"variants/slerp-7b/current.json": pointer})
        return folder

    place.store.set_current("variants/slerp-7b", "1f")
    pointer = place.store.place.read("variants/slerp-7b/current.json") or b""
    place.store.set_current("variants/slerp-7b", "2f")
    monkeypatch.setattr(publishing, "withdraw", then_it_becomes_current)
    done = collect(place.store)
    assert ([one.artifact.version for one in done.spared], done.removed) == (["1f"], [])
    current = place.store.current("variants/slerp-7b")
    assert current is not None and current.version == "1f"
    assert_sound(place.store)


def test_a_version_made_again_since_the_decision_stays(place: Place) -> None:
    first = commit(place.store, "1f", key="1f")
    commit(place.store, "2f", key="2f")
    plan = plan_collection(survey(place.store), keep=1, older_than=NOW, pinned={})
    carry_out(place.store, plan)
    again = commit(place.store, "1f", key="1f")
    assert again.manifest.created > first.manifest.created
    place.store.set_current("variants/slerp-7b", "2f")
    done = carry_out(place.store, plan)
    assert (done.removed, [one.artifact.version for one in done.spared]) == ([], ["1f"])
    assert names(place.store) == {("variants/slerp-7b", "1f"), ("variants/slerp-7b", "2f")}
    assert_sound(place.store)


@pytest.mark.slow
def test_collections_and_builds_at_once_do_no_harm(place: Place) -> None:
    pieces = {"t": os.urandom(1000), "u": os.urandom(1000)}
    builds_done = threading.Event()
    failures: list[BaseException] = []
    retried = 0

    def collecting() -> None:
        try:
            while not builds_done.is_set():
                collect(place.store)
        except BaseException as error:
            failures.append(error)

    def one_build(number: int) -> None:
        version = f"{number % 3}f"
        store = place.store
        if place.kind == "memory":  # takes no pieces of other versions
            commit(store, version, line="variants/a", key=version)
        else:
            build(store, "variants/a", version, pieces | {"own": version.encode() * 100})

    collectors = [threading.Thread(target=collecting) for _ in range(2)]
    for thread in collectors:
        thread.start()
    try:
        for number in range(24 if place.kind != "s3" else 12):
            for attempt in range(5):
                try:
                    one_build(number)
                    break
                except StoreError:  # says what was removed; the same again succeeds
                    retried += 1
                    assert attempt < 4
    finally:
        builds_done.set()
        for thread in collectors:
            thread.join()
    assert failures == []
    one_build(0)
    current = place.store.current("variants/a")
    assert current is not None and current.version == "0f"
    assert_sound(place.store)


# Builds on S3


@pytest.fixture
def cloud(rgw: Rgw, bucket: str, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"s3://{bucket}", rgw.options(), scratch=tmp_path / "scratch")


def test_what_a_running_build_copies_from_stays_until_it_is_done(cloud: ArtifactStore) -> None:
    old = {"t": os.urandom(PART), "u": os.urandom(PART)}
    build(cloud, "variants/a", "1f", old)
    for version in ("2f", "3f"):
        build(cloud, "variants/a", version, {f"other {version}": b"x" * 100})
    seen: list[Any] = []

    def look() -> None:
        plan = plan_collection(survey(cloud), keep=1, older_than=NOW, pinned={})
        seen.append(plan)
        carry_out(cloud, plan)

    build(cloud, "variants/b", "9f", old | {"new": b"y" * 100}, taken=look)
    assert seen[0].kept["variants/a", "1f"] == ["variants/b is being built from it"]
    assert [one.artifact.version for one in seen[0].doomed] == ["2f"]
    assert not [litter for litter in seen[0].litter if litter.build]
    assert_sound(cloud)
    assert [one.artifact.version for one in collect(cloud).removed] == ["1f"]
    assert names(cloud) == {("variants/a", "3f"), ("variants/b", "9f")}
    assert_sound(cloud)


def test_a_build_whose_source_goes_says_so_and_succeeds_when_repeated(cloud: ArtifactStore) -> None:
    old = {"t": os.urandom(PART), "u": os.urandom(PART)}
    build(cloud, "variants/a", "1f", old)
    build(cloud, "variants/a", "2f", {"other": b"x" * 100})
    with pytest.raises(StoreError, match=r"is missing|was removed while it was copied; build again"):
        build(cloud, "variants/b", "9f", old | {"new": b"y"}, begun=lambda: assert_removed(collect(cloud), "1f"))
    build(cloud, "variants/b", "9f", old | {"new": b"y"})
    assert_sound(cloud)


def assert_removed(done: Done, version: str) -> None:
    assert [one.artifact.version for one in done.removed] == [version]


def test_an_unfinished_build_waits_for_the_next_and_goes_when_it_waited_too_long(
    cloud: ArtifactStore, bucket: str, rgw: Rgw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise Stopped("here")

    with pytest.raises(Stopped):
        build(cloud, "variants/a", "1f", {"t": os.urandom(PART)}, taken=stop)
    found = survey(cloud)
    (left,) = found.unfinished
    assert (left.line, left.alive, left.resumable, len(left.uploads)) == ("variants/a", True, True, 1)
    assert collect(cloud).litter == []  # its builder may live
    monkeypatch.setattr("merge_assets.store.inventory.DEAD", NOW)
    assert collect(cloud, older_than=None).litter == []  # the next build may go on with it
    assert [litter.build is not None for litter in collect(cloud).litter] == [True]
    assert "Uploads" not in rgw.client().list_multipart_uploads(Bucket=bucket)
    assert rgw.keys(bucket) == {STORE}


def test_what_a_dead_builder_was_sending_goes_once_nothing_is_to_be_built_on_its_line(
    cloud: ArtifactStore, bucket: str, rgw: Rgw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise Stopped("here")

    build(cloud, "variants/b", "1f", {"t": b"t" * 100})
    for line in ("variants/a", "variants/b"):
        with pytest.raises(Stopped):
            build(cloud, line, "2f", {"u": os.urandom(PART)}, taken=stop)
    assert clear_superseded(cloud, lambda: ["variants/a", "variants/b"]) == [], "their builders may live"
    monkeypatch.setattr("merge_assets.store.inventory.DEAD", NOW)
    removed = clear_superseded(cloud, lambda: ["variants/b"])
    assert [what.rpartition("/")[0] for what in removed] == ["unfinished variants/b"]
    left = [upload["Key"] for upload in rgw.client().list_multipart_uploads(Bucket=bucket)["Uploads"]]
    assert [key.split("/builds/")[0] for key in left] == ["variants/a"]
    assert [build.line for build in survey(cloud).unfinished] == ["variants/a"]
    assert_sound(cloud)
    assert names(cloud) == {("variants/b", "1f")}


def test_a_build_that_is_taken_up_again_since_the_decision_stays(
    cloud: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise Stopped("here")

    pieces = {"t": os.urandom(PART)}
    with pytest.raises(Stopped):
        build(cloud, "variants/a", "1f", pieces, taken=stop)
    monkeypatch.setattr("merge_assets.store.inventory.DEAD", NOW)
    plan = plan_collection(survey(cloud), keep=1, older_than=NOW, pinned={})
    assert len(plan.litter) == 1
    monkeypatch.undo()
    done: list[Done] = []
    build(cloud, "variants/a", "1f", pieces, taken=lambda: done.append(carry_out(cloud, plan)))
    assert (done[0].removed, done[0].litter) == ([], [])
    assert_sound(cloud)
    assert names(cloud) == {("variants/a", "1f")}


def test_nothing_of_a_removed_version_is_left_in_the_bucket(cloud: ArtifactStore, bucket: str, rgw: Rgw) -> None:
    for version in ("1f", "2f"):
        build(cloud, "variants/a", version, {"t": b"t" * 1000, version: b"v" * 1000})
    commit(cloud, "1e", line="scores/a/demo", key="1e")
    commit(cloud, "2e", line="scores/a/demo", key="2e")
    assert len(collect(cloud).removed) == 2
    left = rgw.keys(bucket)
    known = {entry.path for stored in survey(cloud).everything for entry in stored.files}
    pointers = {path for path in left if path.endswith("/current.json") or "/keys/" in path}
    assert left == known | pointers | {"variants/index.txt", STORE}
    assert {path.rpartition("/")[2] for path in pointers} == {"current.json", "key-2f.json", "2e.json"}


def test_the_server_takes_the_lifecycle_rule(cloud: ArtifactStore, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    below = lifecycle_rule(ArtifactStore(f"s3://{bucket}/some/prefix", rgw.options()))
    assert below is not None
    rule, command = below
    client = rgw.client()
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rule)
    (kept,) = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert kept["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert kept["Filter"] == {"Prefix": "some/prefix/"}
    assert command.startswith(f"aws s3api put-bucket-lifecycle-configuration --bucket {bucket} ")
    assert rgw.secret not in command
    assert lifecycle_rule(ArtifactStore(str(tmp_path))) is None


def test_a_bucket_that_is_not_there_is_named(rgw: Rgw) -> None:
    with pytest.raises(StoreError, match="there is no bucket 'nowhere'"):
        survey(ArtifactStore("s3://nowhere/x", rgw.options()))


# Drafts and links of a local store


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    (tmp_path / ".drafts/kept-old/content").mkdir(parents=True)
    then = time.time() - 8 * 86_400
    (tmp_path / ".drafts/kept-new/content").mkdir(parents=True)
    for name, age in (("kept-old", then), ("kept-new", then + 2 * 86_400)):
        for file in ("lock", "content/half"):
            (tmp_path / ".drafts" / name / file).write_bytes(b"x")
            os.utime(tmp_path / ".drafts" / name / file, (age, age))

    def look() -> None:
        (tmp_path / ".drafts/trash-1234").mkdir()
        states = {one.name: one.alive for one in survey(store).unfinished if one.name.startswith("kept-")}
        assert sorted(states.values()) == [False, False, True]
        assert len(collect(store, older_than=None).litter) == 2

    build(store, "variants/a", "1f", {"t": b"t" * 100}, taken=look)
    assert [path.name for path in (tmp_path / ".drafts").iterdir() if path.is_dir()] == ["kept-new"]
    assert_sound(store)


def test_bytes_that_another_version_shares_are_not_said_to_be_freed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    pieces = {"t": os.urandom(100_000)}
    build(store, "variants/a", "1f", pieces)
    build(store, "variants/b", "2f", pieces)
    assert (tmp_path / "variants/a/1f/model.safetensors").stat().st_nlink == 2
    build(store, "variants/a", "3f", {"other": b"x"})
    done = collect(store)
    assert [one.artifact.version for one in done.removed] == ["1f"]
    assert done.freed < 10_000
    build(store, "variants/b", "4f", {"other": b"x"})
    assert collect(store).freed > 100_000


# Removing by name


def test_removing_the_current_version_makes_the_newest_left_current(place: Place) -> None:
    for version in ("1f", "2f", "3f"):
        commit(place.store, version, key=version)
    assert remove(place.store, {"3f"}) == {}
    current = place.store.current("variants/slerp-7b")
    assert current is not None and current.version == "2f"
    assert remove(place.store, {"1f", "2f"}) == {}
    assert place.store.current("variants/slerp-7b") is None
    assert place.files() == set()
    assert_sound(place.store)


def test_who_needs_what_is_to_go_is_said(place: Place) -> None:
    commit(place.store, "1f", line="variants/a", key="1f")
    commit(place.store, "2f", line="variants/b", key="2f", inputs=made_from({"a": "1f"}))
    assert remove(place.store, {"1f"}) == {("variants/a", "1f"): ["variants/b was made from it"]}
    assert names(place.store) == {("variants/a", "1f"), ("variants/b", "2f")}
    assert remove(place.store, {"1f", "2f"}) == {}
    assert names(place.store) == set()


def remove(store: ArtifactStore, versions: set[str]) -> dict[Name, list[str]]:
    """Remove versions unless somebody needs them; returns who does."""
    found = survey(store)
    targets = [stored for stored in found.everything if stored.artifact.version in versions]
    plan, needs = plan_removal(found, targets, pinned={}, force=False)
    if not needs:
        carry_out(store, plan)
    return needs
