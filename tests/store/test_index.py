"""The index of tensor keys: always what the manifests say, whatever has happened to it, the versions or their writers."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from benchmarks.store_index import keys_of, publish
from merge_assets.errors import StoreError
from merge_assets.records import Details
from merge_assets.store import ArtifactStore, PlannedFile, PlannedPiece
from merge_assets.store.collect import carry_out, plan_removal
from merge_assets.store.index import Index
from merge_assets.store.inventory import survey
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw, bucket, rgw
from tests.shelf import Shelf

__all__ = ["bucket", "rgw"]

LINES = ["variants/a", "variants/b", "variants/deep/c"]
TENSORS = ["x", "y", "z", "w"]
INDEX = "variants/index.txt"
HEAD = b"head"


def key(tensor: str) -> str:
    return hashlib.sha256(tensor.encode()).hexdigest()


KEYS = {key(tensor): tensor for tensor in TENSORS}


def build(store: ArtifactStore, line: str, version: str, tensors: Collection[str]) -> None:
    """A version of tensors that are their names, over and over."""
    pieces = tuple(
        PlannedPiece(name, len(HEAD) + 9 * n, len(HEAD) + 9 * (n + 1), key(name)) for n, name in enumerate(tensors)
    )
    with store.build(line, version) as draft:
        draft.building.add([PlannedFile("weights", HEAD, pieces)], {})
        with (draft.directory / "weights").open("r+b", buffering=0) as file:
            file.seek(len(HEAD))
            file.write(b"".join(name.encode() * 9 for name in tensors))
        for name in tensors:
            draft.building.landed(name, 0)
        draft.commit(version, key=version, inputs=[], details=Details())


def remove(store: ArtifactStore, *name: str) -> None:
    inventory = survey(store)
    (stored,) = (one for one in inventory.everything if one.name == name)
    carry_out(store, plan_removal(inventory, [stored], pinned={}, force=True)[0])


def found(store: ArtifactStore, line: str = "variants/new") -> dict[str, str]:
    """Tensor -> the file that it would be taken from; that its bytes are there is looked at."""
    origins = store.origins(set(KEYS), line)
    for wanted, origin in origins.items():
        begin, end = origin.piece.begin, origin.piece.end
        assert store.place.read_range(origin.path, begin, end) == KEYS[wanted].encode() * 9
    return {KEYS[wanted]: origin.path for wanted, origin in origins.items()}


def told(store: ArtifactStore) -> dict[str, set[tuple[str, str]]]:
    """What the index itself tells: tensor -> versions."""
    index = Index.decode(store.place.read(INDEX)) or Index()
    return {tensor: names for tensor in TENSORS if (names := set(index.holders(key(tensor))))}


@pytest.fixture(params=["local", "shelf"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = str(tmp_path / "store") if request.param == "local" else f"shelf://{uuid.uuid4().hex}"
    return ArtifactStore(root, scratch=tmp_path / "scratch")


class IndexMachine(RuleBasedStateMachine):
    """A store whose versions and index are written, damaged, put back and removed; beside it, what each version holds."""

    @initialize(remote=st.booleans())
    def start(self, remote: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        root = f"shelf://{uuid.uuid4().hex}" if remote else self.folder.name
        self.store = ArtifactStore(root, scratch=Path(self.folder.name, "scratch"))
        self.numbers = itertools.count(1)
        self.versions: dict[tuple[str, str], list[str]] = {}
        self.unreadable: dict[tuple[str, str], bytes] = {}
        self.cut: set[tuple[str, str]] = set()
        self.indexes: list[bytes] = []

    @rule(line=st.sampled_from(LINES), tensors=st.lists(st.sampled_from(TENSORS), unique=True))
    def build(self, line: str, tensors: list[str]) -> None:
        version = f"v{next(self.numbers)}"
        build(self.store, line, version, tensors)
        self.versions[line, version] = tensors

    @rule(what=st.sampled_from(["remove", "garble", "put back", "cut"]), number=st.integers(0, 20))
    def change_a_version(self, what: str, number: int) -> None:
        among = self.unreadable if what == "put back" else self.versions.keys() - self.unreadable.keys() - self.cut
        if not among:
            return
        name = sorted(among)[number % len(among)]
        path = f"{'/'.join(name)}/manifest.json"
        match what:
            case "remove":
                remove(self.store, *name)
                del self.versions[name]
            case "garble":
                self.unreadable[name] = self.store.place.read(path) or b""
                self.store.place.write({path: self.unreadable[name].replace(b'"key"', b'"kez"')})
            case "put back":
                self.store.place.write({path: self.unreadable.pop(name)})
            case "cut":
                artifact = self.store.get(*name)
                assert artifact is not None
                self.store.place.write({f"{artifact.url.removeprefix(self.store.url).lstrip('/')}/weights": b"short"})
                self.cut.add(name)

    @rule(
        what=st.sampled_from(["lose", "garble", "put an old one"]), at=st.integers(0, 2000), data=st.binary(max_size=3)
    )
    def change_the_index(self, what: str, at: int, data: bytes) -> None:
        """An old one is put by who looked the store over a while ago and writes late."""
        raw = self.store.place.read(INDEX) or b""
        match what:
            case "lose":
                self.store.place.remove([INDEX])
            case "garble":
                self.store.place.write({INDEX: raw[:at] + data + raw[at + len(data) :]})
            case _ if self.indexes:
                self.store.place.write({INDEX: self.indexes[at % len(self.indexes)]})

    @rule(line=st.sampled_from([*LINES, "variants/new"]))
    def look_up(self, line: str) -> None:
        readable = {name: tensors for name, tensors in self.versions.items() if name not in self.unreadable}
        whole = {name: tensors for name, tensors in readable.items() if name not in self.cut}
        paths = found(self.store, line)
        assert paths.keys() == {tensor for tensors in whole.values() for tensor in tensors}
        own = {tensor for (of, _), tensors in whole.items() if of == line for tensor in tensors}
        assert {tensor for tensor, path in paths.items() if path.startswith(f"{line}/")} == own
        assert told(self.store) == {
            tensor: names
            for tensor in TENSORS
            if (names := {name for name, tensors in readable.items() if tensor in tensors})
        }
        self.indexes.append(self.store.place.read(INDEX) or b"")

    def teardown(self) -> None:
        self.folder.cleanup()


TestIndexMachine = pytest.mark.slow(pytest.mark.timeout(300)(IndexMachine.TestCase))
TestIndexMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_version_that_is_new_or_was_removed_or_made_again_is_told_of_as_it_is(store: ArtifactStore) -> None:
    a, b = (LINES[0], "v1"), (LINES[1], "v2")
    build(store, *a, ["x", "y"])
    build(store, *b, ["y"])
    assert found(store).keys() == {"x", "y"}
    assert told(store) == {"x": {a}, "y": {a, b}}
    build(store, LINES[0], "v3", ["w"])
    remove(store, *a)
    assert found(store).keys() == {"y", "w"}
    assert told(store) == {"y": {b}, "w": {(LINES[0], "v3")}}
    build(store, LINES[1], "v4", ["z"])
    remove(store, *b)
    build(store, *b, ["x"])
    assert found(store).keys() == {"x", "z", "w"}
    assert told(store) == {"x": {b}, "z": {(LINES[1], "v4")}, "w": {(LINES[0], "v3")}}
    store.place.write({f"{'/'.join(b)}/manifest.json": b"{}"})
    assert found(store).keys() == {"z", "w"}
    assert told(store).keys() == {"z", "w"}


def test_a_version_of_which_a_file_is_cut_gives_nothing_and_what_others_have_is_taken_from_them(
    store: ArtifactStore,
) -> None:
    build(store, LINES[0], "v1", TENSORS)
    build(store, LINES[1], "v2", ["x"])
    artifact = store.get(LINES[0], "v1")
    assert artifact is not None
    store.place.write({f"{artifact.url.removeprefix(store.url).lstrip('/')}/weights": b"short"})
    assert found(store).keys() == {"x"}


def test_what_lies_below_another_kind_is_not_looked_at(store: ArtifactStore) -> None:
    build(store, "checkpoints/org/base", "v1", ["x"])
    assert found(store) == {}
    assert found(store, "checkpoints/org/other").keys() == {"x"}


def test_an_index_cut_short_anywhere_is_made_again(store: ArtifactStore) -> None:
    build(store, LINES[0], "v1", ["x", "y"])
    build(store, LINES[1], "v2", ["y", "z"])
    whole = found(store)
    index = store.place.read(INDEX) or b""
    assert len(index) > 200
    for length in range(0, len(index), 7):
        store.place.write({INDEX: index[:length]})
        assert found(store) == whole
        assert store.place.read(INDEX) == index


def test_whoever_is_killed_while_the_index_is_written_leaves_the_next_look_up_right(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place writes a file as a whole: the index is the old one, or the new."""

    class Killed(BaseException):
        pass

    build(store, LINES[0], "v1", ["x"])
    found(store)
    build(store, LINES[1], "v2", ["y"])
    write = type(store.place).write
    for written in (False, True):

        def killed(place: Shelf, files: Mapping[str, bytes], written: bool = written) -> None:
            if written:
                write(place, files)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(type(store.place), "write", killed)
            with pytest.raises(Killed):
                found(store)
        assert told(store).keys() == ({"x", "y"} if written else {"x"})
        if written:
            assert found(store).keys() == {"x", "y"}


def test_who_may_not_write_finds_the_same(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store, LINES[0], "v1", ["x"])

    def refuse(*_: object) -> None:
        raise StoreError("read only")

    monkeypatch.setattr(type(store.place), "write", refuse)
    assert found(store).keys() == {"x"}
    assert store.place.read(INDEX) is None


def test_builders_at_once_lose_nothing_of_each_other(store: ArtifactStore) -> None:
    def work(number: int) -> None:
        for round_ in range(4):
            build(store, f"variants/{number}", f"v{round_}", [TENSORS[number]])
            assert TENSORS[number] in found(store)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert found(store).keys() == set(TENSORS)
    assert told(store) == {TENSORS[n]: {(f"variants/{n}", f"v{r}") for r in range(4)} for n in range(4)}


def test_tensors_are_taken_from_few_versions(store: ArtifactStore) -> None:
    for number, tensor in enumerate(TENSORS):
        build(store, LINES[number % 2], f"v{number}", [tensor])
    build(store, LINES[2], "all", TENSORS)
    build(store, LINES[0], "later", ["x"])
    assert len(set(found(store).values())) == 1
    assert {tensor for tensor, path in found(store, LINES[1]).items() if path.startswith(f"{LINES[1]}/")} == {"y", "w"}


def test_nothing_is_read_but_the_index_and_the_manifests_that_matter(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 13):
        publish(store, number, keys_of(number, 20))
    store.origins({key("x")}, "variants/new")
    read: list[str] = []
    real = type(store.place).read

    def noted(place: Shelf, path: str) -> bytes | None:
        read.append(path)
        return real(place, path)

    monkeypatch.setattr(type(store.place), "read", noted)
    plan = keys_of(5, 20)[10:] + keys_of(8, 20)[10:]
    assert store.origins(set(plan), "variants/new").keys() == set(plan)
    assert read[0] == INDEX
    assert sorted(path.split("/")[1] for path in read[1:]) == ["recipe-5", "recipe-8"]


@pytest.mark.thorough
def test_a_look_up_in_a_bucket_of_200_versions_makes_few_requests(rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    here = ArtifactStore(f"s3://{bucket}", rgw.options(), scratch=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: publish(here, number, keys_of(number, 300)), range(1, 201)))
    plan = [*keys_of(17, 300)[:100], *keys_of(99, 300)[:100], *keys_of(200, 300)[:100]]
    assert here.origins(set(plan), "variants/new").keys() == set(plan)
    with FaultProxy(rgw.url) as proxy:
        store = ArtifactStore(f"s3://{bucket}", rgw.options(proxy.url), scratch=tmp_path)
        assert store.origins(set(plan), "variants/new").keys() == set(plan)
        asked = proxy.requests()
    manifests = [request for request in asked if request.path.endswith("/manifest.json")]
    assert len(manifests) <= 5, "each version shares a layer with the one before"
    assert len(asked) - len(manifests) <= 10
