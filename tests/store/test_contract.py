"""The store's contract, the same on each kind of place.

A version exists from the moment its manifest does; it never changes; it is found by its line and version, by
the key of its inputs, and as the line's current one; its bytes are those that were written, or an error.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from merge_assets.errors import Stopped, StoreError
from merge_assets.records import Details
from merge_assets.sealed import seal, unseal
from merge_assets.store import Artifact, ArtifactStore
from merge_assets.store.names import STORE
from merge_assets.work import Work
from tests.store_places import Lot, place, s3_endpoint
from tests.store_support import FILES, LINE, commit, made_from, write_files

__all__ = ["place", "s3_endpoint"]


@pytest.fixture
def store(place: Lot) -> ArtifactStore:
    return place.store


def read_all(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.read_bytes(name) for name in artifact.manifest.files}


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    """For rules that hold before any place is asked."""
    return ArtifactStore(str(tmp_path / "store"))


# Writing and finding


def test_an_empty_store_has_nothing(store: ArtifactStore) -> None:
    assert store.get(LINE, "f1") is None
    assert store.find(LINE, "k1") is None
    assert store.current(LINE) is None
    assert store.versions(LINE) == []
    assert store.lines("variants") == []


def test_what_was_committed_is_read_back(store: ArtifactStore, place: Lot) -> None:
    committed = commit(store, inputs=made_from({"org/name": "abc"}), details=Details(seconds=1.5, layers=[1, 2]))

    for reader in (store, place.store):
        artifact = reader.get(LINE, "f1")
        assert artifact == committed
        assert artifact is not None and read_all(artifact) == FILES
    manifest = committed.manifest
    assert (manifest.line, manifest.version, manifest.key) == (LINE, "f1", "k1")
    assert manifest.fingerprints == {"org/name": "abc"}
    assert manifest.details == {"nonfinite": {}, "geometry": {}, "seconds": 1.5, "layers": [1, 2]}
    assert manifest.size == sum(map(len, FILES.values()))
    assert manifest.created.utcoffset() is not None
    for name, data in FILES.items():
        assert manifest.files[name].size == len(data)
        assert manifest.files[name].sha256 == hashlib.sha256(data).hexdigest()


def test_the_layout_is_readable_by_a_person(store: ArtifactStore, place: Lot) -> None:
    commit(store)

    expected = {f"{LINE}/f1/{name}" for name in (*FILES, "manifest.json")}
    expected |= {f"{LINE}/keys/k1.json", f"{LINE}/current.json"}
    assert place.files() - {f"{LINE}/f1/claim.json"} == expected
    assert json.loads(place.read(f"{LINE}/f1/manifest.json"))["files"]["config.json"]["size"] == 2
    assert json.loads(place.read(f"{LINE}/current.json"))["version"] == "f1"


def test_a_file_url_is_a_local_folder(tmp_path: Path) -> None:
    artifact = commit(ArtifactStore((tmp_path / "store").as_uri()))

    assert artifact.path == tmp_path / "store" / LINE / "f1"
    assert ArtifactStore(str(tmp_path / "store")).get(LINE, "f1") == artifact


def test_find_by_key(store: ArtifactStore) -> None:
    commit(store, "f1", key="k1")
    commit(store, "f2", key="k2")

    found = {key: artifact.version for key in ("k1", "k2") if (artifact := store.find(LINE, key))}
    assert found == {"k1": "f1", "k2": "f2"}
    assert store.find(LINE, "k3") is None
    assert store.find("variants/other", "k1") is None


def test_two_keys_can_lead_to_one_version(store: ArtifactStore) -> None:
    commit(store, "f1", key="k1")
    commit(store, "f1", key="k2")

    assert [artifact.version for artifact in store.versions(LINE)] == ["f1"]
    assert store.get(LINE, "f1") == store.find(LINE, "k1") == store.find(LINE, "k2")


def test_find_survives_a_builder_killed_before_its_pointer(store: ArtifactStore, place: Lot) -> None:
    commit(store)
    place.remove(f"{LINE}/keys/k1.json")

    found = store.find(LINE, "k1")
    assert found is not None and found.version == "f1"


def test_versions_are_listed_oldest_first(store: ArtifactStore) -> None:
    for version in ("f3", "f1", "f2"):
        commit(store, version, key=version)

    assert [artifact.version for artifact in store.versions(LINE)] == ["f3", "f1", "f2"]


def test_the_last_commit_is_current_until_another_is_set(store: ArtifactStore) -> None:
    commit(store, "f1", key="k1")
    commit(store, "f2", key="k2")
    assert store.current(LINE) == store.get(LINE, "f2")

    store.set_current(LINE, "f1")
    assert store.current(LINE) == store.get(LINE, "f1")

    with pytest.raises(StoreError, match="no version f9"):
        store.set_current(LINE, "f9")


def test_lines_are_found_at_any_depth(store: ArtifactStore) -> None:
    lines = ["scores/org/name@main/demo", "scores/slerp-7b/demo", "scores/slerp-7b/long suite", "leaderboard"]
    for line in lines:
        commit(store, line=line, files={"nested/manifest.json": b"{}"})

    assert store.lines("scores") == sorted(lines[:3])
    assert store.lines("scores/org") == lines[:1]
    assert store.lines("leaderboard") == ["leaderboard"]
    assert store.lines("variants") == []


def test_an_artifact_may_be_empty(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = commit(store, files={})

    assert artifact.manifest.files == {} and store.verify(artifact) == []
    assert artifact.directory(tmp_path / "cache").is_dir()


def test_a_second_commit_of_a_version_keeps_the_first(store: ArtifactStore) -> None:
    first = commit(store, files={"config.json": b"first"})
    second = commit(store, files={"config.json": b"second"})

    assert second == first
    assert second.read_bytes("config.json") == b"first"
    assert store.verify(second) == []


def test_builders_of_one_version_at_once(place: Lot) -> None:
    """Files that differ between the builders show if one of them touches what another has published."""

    def build(number: int) -> Artifact:
        return commit(place.store, files={"config.json": b"%d" % number, "big": b"%d" % number * 50_000})

    with ThreadPoolExecutor(6) as pool:
        artifacts = list(pool.map(build, range(6)))

    assert len({artifact.manifest.encode() for artifact in artifacts}) == 1
    (found,) = place.store.versions(LINE)
    assert place.store.verify(found) == []
    assert found.read_bytes("big") == found.read_bytes("config.json") * 50_000


def test_another_builder_publishes_the_version_while_a_commit_looks_at_its_name(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ArtifactStore.lines

    def later(self: ArtifactStore, kind: str) -> list[str]:
        monkeypatch.undo()
        commit(store, files={"config.json": b"theirs"})
        return lines(self, kind)

    monkeypatch.setattr(ArtifactStore, "lines", later)
    assert commit(store, files={"config.json": b"ours"}).read_bytes("config.json") == b"theirs"


def test_nothing_is_listed_to_commit_a_version_that_is_there(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = commit(store)
    monkeypatch.setattr(ArtifactStore, "lines", lambda *_: pytest.fail("its name was looked into"))
    assert commit(store) == first


# Drafts


def test_a_draft_is_a_fresh_local_folder_that_vanishes(store: ArtifactStore) -> None:
    with store.draft(LINE) as draft, store.draft(LINE) as other:
        assert list(draft.directory.iterdir()) == []
        assert draft.directory != other.directory
        write_files(draft.directory, FILES)

    assert not draft.directory.exists()
    assert store.versions(LINE) == []


def test_a_failing_builder_leaves_nothing(store: ArtifactStore, place: Lot) -> None:
    with pytest.raises(RuntimeError), store.draft(LINE) as draft:
        write_files(draft.directory, FILES)
        raise RuntimeError

    assert not draft.directory.exists()
    assert place.files() == set()


def test_a_draft_is_committed_once_and_not_after_its_end(store: ArtifactStore) -> None:
    with store.draft(LINE) as draft:
        draft.commit("f1", key="k1", inputs=[], details=Details())
        with pytest.raises(StoreError, match="committed or closed"):
            draft.commit("f2", key="k1", inputs=[], details=Details())
    with store.draft(LINE) as draft:
        pass
    with pytest.raises(StoreError, match="committed or closed"):
        draft.commit("f2", key="k1", inputs=[], details=Details())


def test_known_digests_are_taken_over(store: ArtifactStore) -> None:
    known = hashlib.sha256(b"what the engine hashed while writing").hexdigest()
    artifact = commit(store, files={"a": b"1", "b": b"2"}, digests={"a": known})

    assert artifact.manifest.files["a"].sha256 == known
    assert artifact.manifest.files["b"].sha256 == hashlib.sha256(b"2").hexdigest()
    assert store.verify(artifact) == [f"{artifact.url}/a: its sha256 is not that of the manifest"]


@pytest.mark.parametrize("digests", [{"absent": "0" * 64}, {"a": "0" * 63}, {"a": "X" * 64}])
def test_wrong_digests_are_refused(store: ArtifactStore, digests: dict[str, str]) -> None:
    with pytest.raises(StoreError, match=next(iter(digests))):
        commit(store, files={"a": b"1"}, digests=digests)
    assert store.versions(LINE) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"\xff"])
def test_details_must_be_json(store: ArtifactStore, value: object) -> None:
    with pytest.raises(StoreError, match="not plain JSON"):
        commit(store, details=Details(x=value))
    assert store.versions(LINE) == []


def test_links_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    for target in (tmp_path / "secret", tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreError, match="regular files only"), store.draft(LINE) as draft:
            (draft.directory / "link").symlink_to(target)
            draft.commit("f1", key="k1", inputs=[], details=Details())
    assert store.versions(LINE) == []


def test_stopping_a_commit_publishes_nothing(store: ArtifactStore) -> None:
    with pytest.raises(Stopped):
        commit(store, work=Work(should_stop=lambda: True))
    assert store.versions(LINE) == []


def test_progress_of_a_commit_reaches_the_total(store: ArtifactStore) -> None:
    seen: list[tuple[int, int, str]] = []
    commit(store, work=Work(lambda *step: seen.append(step)))

    total = sum(map(len, FILES.values()))
    assert seen[-1][:2] == (total, total)
    assert all(0 <= done <= everything for done, everything, _ in seen)


# Incomplete and damaged versions


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"line": "variants/slerp-7b", "version": "f1"}',
    ],
)
def test_a_version_without_a_valid_manifest_does_not_exist(store: ArtifactStore, place: Lot, raw: bytes) -> None:
    commit(store)
    place.write(f"{LINE}/f1/manifest.json", raw)

    assert store.get(LINE, "f1") is None
    assert store.find(LINE, "k1") is None
    assert store.current(LINE) is None
    assert store.versions(LINE) == []
    assert store.lines("variants") == []


def test_a_version_without_a_manifest_does_not_exist(store: ArtifactStore, place: Lot) -> None:
    commit(store)
    place.remove(f"{LINE}/f1/manifest.json")

    assert store.get(LINE, "f1") is None and store.versions(LINE) == []


def test_a_manifest_of_another_version_does_not_count(store: ArtifactStore, place: Lot) -> None:
    commit(store)
    place.write(f"{LINE}/f2/manifest.json", place.read(f"{LINE}/f1/manifest.json"))

    assert store.get(LINE, "f2") is None
    assert [artifact.version for artifact in store.versions(LINE)] == ["f1"]


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "a/../../b", "", "a\\b", "a//b", "manifest.json"])
def test_a_manifest_that_names_files_outside_is_invalid(store: ArtifactStore, place: Lot, name: str) -> None:
    commit(store)
    manifest = unseal(place.read(f"{LINE}/f1/manifest.json")) or {}
    manifest["files"][name] = {"size": 1, "sha256": "0" * 64}
    place.write(f"{LINE}/f1/manifest.json", seal(manifest))

    assert store.get(LINE, "f1") is None


@pytest.mark.parametrize("folder", ["..", "../f2", "/etc", "a/b", "keys"])
def test_a_manifest_that_lies_about_its_folder_is_invalid(store: ArtifactStore, place: Lot, folder: str) -> None:
    commit(store)
    manifest = unseal(place.read(f"{LINE}/f1/manifest.json")) or {}
    for field in ("folder", "build"):
        place.write(f"{LINE}/f1/manifest.json", seal(manifest | {field: folder}))
        assert store.get(LINE, "f1") is None
    place.write(f"{LINE}/f1/manifest.json", seal(manifest))
    assert store.get(LINE, "f1") is not None


def test_a_manifest_with_one_other_bit_is_invalid(store: ArtifactStore, place: Lot) -> None:
    """What came garbled from a server must not be believed, least of all its digests."""
    raw = commit(store) and place.read(f"{LINE}/f1/manifest.json")
    for place_of_bit in range(0, len(raw), len(raw) // 5):
        garbled = bytearray(raw)
        garbled[place_of_bit] ^= 1
        place.write(f"{LINE}/f1/manifest.json", bytes(garbled))
        assert store.get(LINE, "f1") is None or garbled[place_of_bit : place_of_bit + 1].isspace()


@pytest.mark.parametrize("damage", ["manifest", "cut", "gone"])
def test_a_damaged_version_is_built_again(store: ArtifactStore, place: Lot, damage: str) -> None:
    commit(store)
    match damage:
        case "manifest":
            place.write(f"{LINE}/f1/manifest.json", b"{")
        case "cut":
            place.write(f"{LINE}/f1/model.safetensors", b"short")
        case _:
            place.remove(f"{LINE}/f1/model.safetensors")
    assert store.find(LINE, "k1") is None

    commit(store)

    found = place.store.find(LINE, "k1")
    assert found is not None and read_all(found) == FILES
    assert store.verify(found) == []
    assert [artifact.version for artifact in store.versions(LINE)] == ["f1"]


def test_verify_names_every_problem(store: ArtifactStore, place: Lot) -> None:
    artifact = commit(store, files=dict.fromkeys(("cut", "gone", "flipped", "fine"), b"1234"))
    assert store.verify(artifact) == []
    place.write(f"{LINE}/f1/cut", b"12")
    place.write(f"{LINE}/f1/flipped", b"1235")
    place.write(f"{LINE}/f1/extra", b"")
    place.remove(f"{LINE}/f1/gone")

    assert [problem.removeprefix(artifact.url + "/") for problem in store.verify(artifact)] == [
        "cut: 2 bytes, 4 in the manifest",
        "extra: not in the manifest",
        "flipped: its sha256 is not that of the manifest",
        "gone: missing",
    ]


def test_reading_flipped_bytes_is_an_error(store: ArtifactStore, place: Lot) -> None:
    artifact = commit(store)
    place.write(f"{LINE}/f1/config.json", b"[]")

    with pytest.raises(StoreError, match=r"config\.json.*not those that the manifest records"):
        artifact.read_bytes("config.json")


def test_reading_a_file_that_is_not_there_is_an_error(store: ArtifactStore, place: Lot) -> None:
    artifact = commit(store)
    with pytest.raises(StoreError, match=r"no file 'absent'.*config\.json"):
        artifact.read_bytes("absent")
    with pytest.raises(StoreError, match="no file"):
        artifact.open("../f2/manifest.json")

    place.remove(f"{LINE}/f1/config.json")
    with pytest.raises(StoreError, match=r"config\.json"):
        artifact.read_bytes("config.json")


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b'{"version": "f1"}', seal({"version": 3}), seal({"version": "../f1"}), seal({"version": "absent"})],
)
def test_a_damaged_pointer_points_nowhere(store: ArtifactStore, place: Lot, raw: bytes) -> None:
    commit(store)
    place.write(f"{LINE}/current.json", raw)
    place.write(f"{LINE}/keys/k1.json", raw)

    assert store.current(LINE) is None
    found = store.find(LINE, "k1")
    assert found is not None and found.version == "f1"


# Local copies


def test_directory_holds_the_files(store: ArtifactStore, tmp_path: Path) -> None:
    folder = commit(store).directory(tmp_path / "cache")

    for name, data in FILES.items():
        assert (folder / name).read_bytes() == data


def test_a_directory_is_downloaded_once(store: ArtifactStore, place: Lot, tmp_path: Path) -> None:
    artifact = commit(store)
    folder = artifact.directory(tmp_path / "cache")
    if artifact.path is not None:
        assert folder == artifact.path and not (tmp_path / "cache").exists()
        return
    place.remove(f"{LINE}/f1/config.json")

    assert artifact.directory(tmp_path / "cache") == folder
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_many_callers_of_one_directory(place: Lot, tmp_path: Path) -> None:
    commit(place.store)

    def ask(_: int) -> Path:
        artifact = place.store.get(LINE, "f1")
        assert artifact is not None
        folder = artifact.directory(tmp_path / "cache")
        assert {name: (folder / name).read_bytes() for name in FILES} == FILES
        return folder

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1


@pytest.mark.parametrize("data", [None, b"[]", b"[ ]"])
def test_a_damaged_download_is_refused_and_not_kept(
    store: ArtifactStore, place: Lot, tmp_path: Path, data: bytes | None
) -> None:
    artifact = commit(store)
    if artifact.path is not None:
        pytest.skip("a local version is used where it lies")
    if data is None:
        place.remove(f"{LINE}/f1/config.json")
    else:
        place.write(f"{LINE}/f1/config.json", data)

    with pytest.raises(StoreError, match=r"config\.json"):
        artifact.directory(tmp_path / "cache")
    with pytest.raises(Stopped):
        artifact.directory(tmp_path / "cache", work=Work(should_stop=lambda: True))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "lock" not in path.name] == []


def test_an_open_file_can_be_read_in_ranges(store: ArtifactStore) -> None:
    artifact = commit(store)

    with artifact.open("model.safetensors") as file:
        file.seek(256 * 3 + 16)
        assert file.read(4) == bytes([16, 17, 18, 19])


# Names


@pytest.mark.parametrize(
    "line",
    ["", "/", "..", "variants/..", "variants/../x", "/etc", "variants//x", "variants/", "variants/.hidden",
     "variants/a\\b", "variants/a\0", "variants/a\nb", "variants/keys", "variants/manifest.json", "variants/x.",
     "variants/" + "x" * 201, "variants/*", "~/x", "s3://bucket"],
)  # fmt: skip
def test_hostile_lines_are_refused(local: ArtifactStore, tmp_path: Path, line: str) -> None:
    calls = (local.versions, local.lines, local.current, lambda name: local.get(name, "f1"),
             lambda name: local.find(name, "k1"), lambda name: commit(local, line=name))  # fmt: skip
    for call in calls:
        with pytest.raises(StoreError, match="not a line"):
            call(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../f1", "a/b", "/f1", ".hidden", "keys", "current.json", "a b", "a\n",
                                  "é", "x" * 129])  # fmt: skip
def test_hostile_versions_and_keys_are_refused(local: ArtifactStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="not a version"):
        local.get(LINE, name)
    with pytest.raises(StoreError, match="not a version"):
        commit(local, name)
    with pytest.raises(StoreError, match="not a key"):
        local.find(LINE, name)
    with pytest.raises(StoreError, match="not a key"):
        commit(local, key=name)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".lock", STORE}


@pytest.mark.parametrize("name", ["manifest.json", "claim.json", "a\\b", "a\nb"])
def test_hostile_file_names_are_refused(local: ArtifactStore, name: str) -> None:
    with pytest.raises(StoreError, match="file"):
        commit(local, files={name: b""})
    assert local.versions(LINE) == []


@pytest.mark.parametrize(
    "line", ["variants/org/Name-7B@v1.0", "variants/a b (copy), 2+x=y~", "variants/naïve-模型", "leaderboard"]
)
def test_ordinary_names_work_everywhere(store: ArtifactStore, line: str, tmp_path: Path) -> None:
    files = {"ünï code.txt": b"1", ".gitattributes": b"2", "a#b%20c&d?.json": b"3", "[x]*.bin": b"4"}
    artifact = commit(store, line=line, files=files)

    assert store.get(line, "f1") == artifact
    assert read_all(artifact) == files
    folder = artifact.directory(tmp_path / "cache")
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert store.verify(artifact) == []
    assert store.lines(line.split("/")[0]) == [line]
