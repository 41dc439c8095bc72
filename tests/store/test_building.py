"""Contract of versions built piece by piece: what is finished is kept, checked before it counts, and shared."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from merge_assets.errors import Stopped, StoreError
from merge_assets.records import Details
from merge_assets.store import Artifact, ArtifactStore, BuildDraft, PlannedFile, PlannedPiece, building
from tests.block_digest import block_digest
from tests.store_support import write_files

LINE, KEY = "variants/mean", "ab" * 32
HEAD = b"head of the file"


def planned(name: str = "a.bin", *pieces: str, keys: str = "k") -> PlannedFile:
    """A file of pieces of 1000 bytes each; their keys differ by ``keys``."""
    places = [len(HEAD) + 1000 * n for n in range(len(pieces))]
    return PlannedFile(
        name,
        HEAD,
        tuple(
            PlannedPiece(p, at, at + 1000, f"{ord(keys):02x}" * 31 + f"{n:02x}")
            for n, (p, at) in enumerate(zip(pieces, places, strict=True))
        ),
    )


def fill(draft: BuildDraft, file: PlannedFile, *names: str) -> None:
    """Write pieces as a builder does; each is its name over and over."""
    for piece in file.pieces:
        if piece.name in names:
            with (draft.directory / file.name).open("r+b") as stream:
                stream.seek(piece.begin)
                stream.write((piece.name.encode() * 1000)[:1000])
            draft.building.landed(piece.name, 0)


def commit(draft: BuildDraft, version: str = "v1") -> Artifact:
    (draft.directory / "config.json").write_text("{}")
    return draft.commit(version, key=KEY, inputs=[], details=Details())


def interrupt(store: ArtifactStore, file: PlannedFile, *names: str) -> None:
    """A build that is stopped after some pieces."""
    with pytest.raises(Stopped), store.build(LINE, KEY) as draft:
        draft.building.add([file], {})
        fill(draft, file, *names)
        raise Stopped("stopped")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


FILE = planned("a.bin", "one", "two", "three")


def test_a_version_of_pieces_is_the_file_with_a_digest_of_each(store: ArtifactStore) -> None:
    with store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        assert (draft.directory / "a.bin").stat().st_size == FILE.size
        fill(draft, FILE, "two", "three", "one")
        artifact = commit(draft)
    assert store.verify(artifact) == []
    data = (Path(artifact.url) / "a.bin").read_bytes()
    assert data == HEAD + b"".join((p.name.encode() * 1000)[:1000] for p in FILE.pieces)
    assert [piece.name for piece in artifact.manifest.files["a.bin"].pieces] == ["", "one", "two", "three"]


def test_the_next_builder_has_what_the_stopped_one_finished(store: ArtifactStore) -> None:
    interrupt(store, FILE, "one", "three")
    assert store.versions(LINE) == []
    with store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        assert draft.building.finished == draft.building.resumed == {"one", "three"}
        fill(draft, FILE, "two")
        assert store.verify(commit(draft)) == []


def test_another_key_begins_anew(store: ArtifactStore) -> None:
    interrupt(store, FILE, "one")
    with store.build(LINE, "cd" * 32) as draft:
        draft.building.add([FILE], {})
        assert draft.building.finished == frozenset()


def test_a_piece_whose_bytes_were_lost_is_made_again(store: ArtifactStore, tmp_path: Path) -> None:
    """As after a power cut: the journal reached the disk, the bytes did not; the journal's last line was cut."""
    interrupt(store, FILE, "one", "two")
    draft = next((tmp_path / "store" / ".drafts").glob("kept-*"))
    with (draft / "content" / "a.bin").open("r+b") as stream:
        stream.seek(FILE.pieces[0].begin)
        stream.write(bytes(1000))
    with (draft / "journal").open("a") as journal:
        journal.write('["three", "00')
    with store.build(LINE, KEY) as again:
        again.building.add([FILE], {})
        assert again.building.finished == {"two"}
        fill(again, FILE, "one", "three")
        assert store.verify(commit(again)) == []


def test_a_manifest_that_was_not_published_and_files_that_are_not_written_again_are_cleared(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """As after a kill between the manifest and the rename."""
    interrupt(store, FILE, "one", "three")
    content = next((tmp_path / "store" / ".drafts").glob("kept-*")) / "content"
    write_files(content, {"manifest.json": b"{}", "config.json": b"half", "plots/old.png": b"old"})
    (content / "link").symlink_to(content / "plots")
    with store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        assert draft.building.resumed == {"one", "three"}
        assert [path.name for path in content.iterdir()] == ["a.bin"]
        fill(draft, FILE, "two")
        assert store.verify(commit(draft)) == []


def test_a_draft_whose_content_was_published_is_begun_anew(store: ArtifactStore, tmp_path: Path) -> None:
    interrupt(store, FILE, "one", "two")
    draft = next((tmp_path / "store" / ".drafts").glob("kept-*"))
    shutil.rmtree(draft / "content")
    with store.build(LINE, KEY) as again:
        assert again.directory.is_dir()
        again.building.add([FILE], {})
        assert again.building.finished == frozenset()
        fill(again, FILE, "one", "two", "three")
        assert store.verify(commit(again)) == []


def test_where_nothing_can_be_locked_a_draft_that_was_left_is_in_nobodys_way(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(store, FILE, "one")

    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        fill(draft, FILE, "one", "two", "three")
        assert store.verify(commit(draft)) == []


def test_what_was_left_by_who_was_killed_after_the_version_was_there_is_cleared_by_its_next_use(
    store: ArtifactStore, tmp_path: Path
) -> None:
    first = first_version(store)
    interrupt(store, FILE, "one")
    drafts = tmp_path / "store" / ".drafts"
    (drafts / "tmp-1234").write_bytes(b"half a pointer")
    (tmp_path / "store" / LINE / "current.json").unlink()
    assert len(list(drafts.iterdir())) == 3
    assert store.reuse(LINE, KEY) == first == store.current(LINE)
    assert [path.name for path in drafts.iterdir()] == [".lock"]
    with store.build(LINE, KEY):
        store.reuse(LINE, KEY)
        assert len(list(drafts.glob("kept-*"))) == 1, "a builder works on it"


def test_flaws_of_finished_pieces_are_remembered(store: ArtifactStore) -> None:
    with pytest.raises(Stopped), store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        draft.building.landed("one", 7)
        raise Stopped("stopped")
    with store.build(LINE, KEY) as again:
        again.building.add([FILE], {})
        assert again.building.flaws == {"one": 7}


def test_an_error_that_stays_leaves_no_draft(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no room"), store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        raise StoreError("no room")
    assert [path.name for path in (tmp_path / "store" / ".drafts").iterdir()] == [".lock"]


def test_two_builders_at_once_do_not_share_a_draft(store: ArtifactStore) -> None:
    with store.build(LINE, KEY) as one, store.build(LINE, KEY) as two:
        assert one.directory != two.directory
        for draft in (one, two):
            draft.building.add([FILE], {})
            fill(draft, FILE, "one", "two", "three")
        assert commit(one).manifest == commit(two).manifest


def test_work_that_nobody_goes_on_with_is_removed_after_a_week(store: ArtifactStore, tmp_path: Path) -> None:
    interrupt(store, FILE, "one")
    kept = next((tmp_path / "store" / ".drafts").glob("kept-*"))
    for age, there in ((6, True), (8, False)):
        then = time.time() - age * 86_400
        for path in (kept, *kept.rglob("*")):
            os.utime(path, (then, then))
        with store.draft("variants/other"):
            assert kept.exists() == there


def first_version(store: ArtifactStore) -> Artifact:
    with store.build(LINE, KEY) as draft:
        draft.building.add([FILE], {})
        fill(draft, FILE, "one", "two", "three")
        return commit(draft)


def test_a_file_that_another_version_has_whole_is_linked(store: ArtifactStore) -> None:
    first = first_version(store)
    origins = store.origins({piece.key for piece in FILE.pieces}, LINE)
    with store.build("variants/twin", KEY) as draft:
        draft.building.add([FILE], {piece.name: origins[piece.key] for piece in FILE.pieces})
        assert draft.building.finished == {"one", "two", "three"}
        twin = commit(draft)
    assert os.path.samefile(Path(first.url) / "a.bin", Path(twin.url) / "a.bin")  # noqa: PTH121
    assert draft.building.tally.linked == FILE.size
    assert store.verify(twin) == []


def linked_twin(store: ArtifactStore) -> Artifact:
    """A version that has its file from the one before."""
    origins = store.origins({piece.key for piece in FILE.pieces}, LINE)
    with store.build("variants/twin", KEY) as draft:
        draft.building.add([FILE], {piece.name: origins[piece.key] for piece in FILE.pieces})
        fill(draft, FILE, *({piece.name for piece in FILE.pieces} - draft.building.finished))
        return commit(draft)


def test_what_is_linked_is_read_and_compared_by_the_quick_half_and_recorded_with_both(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_version(store)
    read: list[tuple[int, int]] = []

    def quickly(path: Path, begin: int, end: int) -> str:
        read.append((begin, end))
        return block_digest(path.read_bytes()[begin:end])[-32:]

    def wholly(path: Path, begin: int, end: int) -> str:
        raise AssertionError("the slow half is taken, too")

    monkeypatch.setattr(building, "hash_quickly", quickly)
    monkeypatch.setattr(building, "hash_range", wholly)
    twin = linked_twin(store)
    assert sorted(read) == [(piece.begin, piece.end) for piece in FILE.pieces]
    data = (Path(twin.url) / "a.bin").read_bytes()
    recorded = {piece.name: piece.digest for piece in twin.manifest.files["a.bin"].pieces if piece.name}
    assert recorded == {piece.name: block_digest(data[piece.begin : piece.end]) for piece in FILE.pieces}


@pytest.mark.parametrize("at", [0, len(HEAD), len(HEAD) + 1999, FILE.size - 1])
def test_a_file_that_rots_is_not_linked_and_one_that_was_linked_is_found_rotten_in_both(
    store: ArtifactStore, at: int
) -> None:
    def rot(version: Artifact) -> None:
        path = Path(version.url) / "a.bin"
        before = path.stat()
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"\xff")
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    first = first_version(store)
    rot(first)
    twin = linked_twin(store)
    assert store.verify(twin) == [] and len(store.verify(first)) == 1
    shutil.rmtree(first.url)
    with store.build("variants/third", KEY) as draft:
        origins = store.origins({piece.key for piece in FILE.pieces}, "variants/third")
        draft.building.add([FILE], {piece.name: origins[piece.key] for piece in FILE.pieces})
        third = commit(draft)
    assert draft.building.tally.linked == FILE.size
    rot(twin)
    assert len(store.verify(twin)) == len(store.verify(third)) == 1


@pytest.mark.parametrize("other", [FILE, planned("b.bin", "two", "new", keys="m")])
def test_what_was_removed_since_it_was_found_is_made(store: ArtifactStore, other: PlannedFile) -> None:
    first = first_version(store)
    origins = store.origins({piece.key for piece in FILE.pieces}, "variants/other")
    known = {piece.name: origins[piece.key] for piece in FILE.pieces}
    shutil.rmtree(first.url)
    with store.build("variants/other", KEY) as draft:
        draft.building.add([other], {piece.name: known[piece.name] for piece in other.pieces if piece.name in known})
        assert draft.building.finished == draft.building.reused == frozenset()
        fill(draft, other, *(piece.name for piece in other.pieces))
        artifact = commit(draft)
    assert draft.building.tally.copied == draft.building.tally.reused == 0
    assert store.verify(artifact) == []


def test_pieces_that_other_versions_have_are_copied_and_theirs_stay_as_they_are(store: ArtifactStore) -> None:
    first = first_version(store)
    other = planned("b.bin", "two", "new", keys="m")
    origins = store.origins({piece.key for piece in FILE.pieces}, "variants/other")
    with store.build("variants/other", KEY) as draft:
        draft.building.add([other], {"two": origins[FILE.pieces[1].key]})
        assert draft.building.finished == {"two"}
        fill(draft, other, "new")
        artifact = commit(draft)
    assert (Path(artifact.url) / "b.bin").read_bytes() == HEAD + b"two" * 333 + b"t" + b"new" * 333 + b"n"
    assert draft.building.tally.copied == draft.building.tally.reused == 1000
    assert store.verify(artifact) == store.verify(first) == []
