"""Real faults: processes killed, disks full, reads that fail, shards that are cut short or lie.

Each ends in one clear error that names the file, and in nothing that a reader would take for a model.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.engine import files as engine_files
from merge_assets.engine.worker import Shared
from merge_assets.errors import EngineError, StoreError
from merge_assets.settings import Settings
from merge_assets.store import ArtifactStore
from merge_assets.work import Work
from tests.checkpoint_support import raw_file
from tests.commands import run_command
from tests.faults.build_steps import in_a_process
from tests.faults.merge_steps import merge_until
from tests.faults.support import build_faults, content, disk, names, the_error, write_project, write_recipes
from tests.store_support import finish, spawn
from tests.synthetic import write_llama


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("faults") / "project")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that makes file operations of a process fail."""
    return build_faults(tmp_path_factory.mktemp("library"))


def open_project(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root))


# -- killed ------------------------------------------------------------------------------------------------------------


def models_below(root: Path) -> set[str]:
    """The folders in which a reader would look for a model: visible, with a config or with weights."""
    marks = ("config.json", "*.safetensors", "*.safetensors.index.json")
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return {folder.name for folder in folders if any(any(folder.glob(mark)) for mark in marks)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overwrite", "kills"),
    [(False, 24), pytest.param(True, 16, marks=pytest.mark.thorough)],
    ids=["fresh", "overwrite"],
)
def test_a_merge_killed_at_any_moment_shows_no_half_model(
    overwrite: bool, kills: int, project: Path, tmp_path: Path
) -> None:
    """OUT is absent, or the older model, or the new one, byte for byte; after every fourth kill, the re-run is whole."""
    inputs = {"m0", "m1", "m2"}
    out, log = project / "out", tmp_path / "log"
    kept = tmp_path / "kept"

    def merge(recipe: str, where: Path, last: int = 0) -> int:
        return in_a_process(merge_until, project, recipe, where, overwrite, last, log)

    assert merge("copy", kept / "older") == 0
    assert merge("ties", kept / "whole") == 0
    steps = len(log.read_text().splitlines())
    before, whole = content(kept / "older") if overwrite else {}, content(kept / "whole")
    assert len([name for name in whole if name.endswith(".safetensors")]) > 2

    def reset() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if overwrite:
            shutil.copytree(kept / "older", out)

    writing = 0
    try:
        for number in range(1, kills + 1):
            reset()
            # The last of them lets it finish, or nearly: threads make a few steps more or less.
            code = merge("ties", out, number * steps // kills)
            found = content(out)
            assert found == whole if code == 0 else found in (before, whole), sorted(found)
            assert models_below(project) == inputs | ({"out"} if found else set())
            writing += any(name.startswith(".out.merging-") for name in names(project))
            if number % 4 == 0:
                if found == whole:
                    reset()
                assert merge("ties", out) == 0
                assert content(out) == whole
                assert [name for name in names(project) if name.startswith(".")] == [], "dead merges left these"
    finally:
        shutil.rmtree(out, ignore_errors=True)
    assert writing >= 0.4 * kills


@pytest.mark.slow
@pytest.mark.parametrize("how", ["swap", pytest.param("aside", marks=pytest.mark.thorough)])
def test_death_at_every_step_of_replacing_a_model(how: str, tmp_path: Path) -> None:
    """See :mod:`tests.faults.every_step`, which looks after each of the deaths."""
    write_llama(tmp_path / "m1", 2)
    write_recipes(tmp_path)
    code = "import runpy\nrunpy.run_module('tests.faults.every_step', run_name='__main__')\n"
    before, after = map(int, finish(spawn(code, tmp_path, how)).split())
    assert before > 8
    assert after > 4


@pytest.mark.slow
def test_a_living_merge_keeps_its_folder(project: Path, tmp_path: Path) -> None:
    """Only what dead processes left is removed: another merge into the same folder goes on undisturbed."""
    space, out = open_project(project), tmp_path / "out"
    seen: list[str] = []

    def merge_again(*_: object) -> None:
        if not seen:
            seen.extend(names(tmp_path))
            assert run_command("merge", "copy", str(out), root=project).code == 0
            assert names(tmp_path) == [*seen, "out"]

    api.merge(space, space.recipe("linear"), out, threads=1, work=Work(merge_again))
    assert len(seen) == 1
    assert names(tmp_path) == ["out"]
    assert "merge_method: linear" in (out / "recipe.yaml").read_text()


# -- full disks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ties", "copy"])
@pytest.mark.parametrize("reserves", [True, False], ids=["reserving", "writing"])
def test_a_full_disk(recipe: str, reserves: bool, project: Path, faults: str, tmp_path: Path) -> None:
    """Seen before anything is computed where space can be reserved, else in the middle."""
    environment = {} if reserves else {"LD_PRELOAD": faults, "FAULT_FALLOCATE": "1"}
    with disk(tmp_path / "disk", 8 << 20) as small:
        done = run_command("merge", recipe, str(small / "out"), root=project, environment=environment)
        message = the_error(done)
        assert f"{small}/.out.merging-" in message
        assert "/model.safetensors: " in message
        assert ("cannot reserve" if reserves else "cannot be written") in message
        assert "No space left on device; make room there" in message
        assert ("%" in done.stderr) == (not reserves), "the bar appears with the first byte that is read"
        assert names(small) == []


@pytest.mark.slow
def test_a_disk_that_the_files_beside_the_weights_fill(project: Path, tmp_path: Path) -> None:
    weights = (project / "m1" / "model.safetensors").stat().st_size
    vocabulary = project / "m1" / "vocab.json"
    vocabulary.write_bytes(bytes(3 << 20))
    try:
        with disk(tmp_path / "disk", weights + (2 << 20)) as small:
            message = the_error(run_command("merge", "copy", str(small / "out"), root=project))
            assert "No space left on device" in message
            assert names(small) == []
    finally:
        vocabulary.unlink()


def test_a_full_disk_below_the_store(project: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 8 << 20) as small:
        store = ArtifactStore(str(small / "store"))
        space = api.Workspace(Settings(root=project, cache_dir=tmp_path / "cache"), open_project(project).book, store)
        with pytest.raises(StoreError, match=r"model\.safetensors: cannot reserve .*No space left"):
            api.build(space, space.recipe("ties"))
        assert store.versions("variants/ties") == []
        left = {path.name for path in (small / "store").rglob("*") if path.is_file()}
        assert left <= {".lock", "store.json"}, "no draft, and the lease was given back"
        assert names(small / "store" / ".drafts") == [".lock"]


@pytest.mark.slow
def test_writes_that_are_lost_on_their_way_to_the_disk(project: Path, faults: str, tmp_path: Path) -> None:
    environment = {"LD_PRELOAD": faults, "FAULT_FSYNC": "1"}
    message = the_error(run_command("merge", "copy", str(tmp_path / "out"), root=project, environment=environment))
    assert "/model.safetensors: cannot be made durable: Input/output error; check the disk" in message
    assert names(tmp_path) == []


# -- reads that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ties", "linear", "copy"])
def test_a_read_error_in_the_middle_of_a_shard(recipe: str, project: Path, faults: str, tmp_path: Path) -> None:
    """EIO from the system, in several threads at about the same time: one error, and it names the input."""
    shard = project / "m1" / "model.safetensors"
    environment = {"LD_PRELOAD": faults, "FAULT_READ": f"{shard}:{shard.stat().st_size // 2}"}
    before = names(project)
    done = run_command("merge", recipe, str(tmp_path / "out"), "--threads", "4", root=project, environment=environment)
    message = the_error(done)
    assert message.startswith(f"error: {shard}: ")
    assert "cannot be read: Input/output error; check the disk it lies on, then fetch it again" in message
    assert names(tmp_path) == []
    assert names(project) == before


def test_an_error_in_one_thread_stops_the_others(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finishes at most the tile that it is at, of some hundreds that are left."""
    space, shard = open_project(project), project / "m1" / "model.safetensors"
    failed, told = threading.Event(), threading.Event()
    after: list[int] = []
    fail = Shared.fail
    read = engine_files.InputFiles.read_into

    def flaky(inputs: engine_files.InputFiles, path: str, buffer: memoryview, offset: int) -> None:
        if path == str(shard) and offset > shard.stat().st_size // 3 and not failed.is_set():
            failed.set()
            raise EngineError(f"{path}: broke")
        read(inputs, path, buffer, offset)

    def report(done: int, total: int, label: str) -> None:
        if failed.is_set():
            after.append(threading.get_ident())
            assert told.wait(60), "nobody heard of the error"

    def tell(shared: Shared, error: BaseException) -> None:
        fail(shared, error)
        told.set()

    monkeypatch.setattr(Shared, "fail", tell)
    monkeypatch.setattr(engine_files.InputFiles, "read_into", flaky)
    with pytest.raises(EngineError, match="broke"):
        api.merge(space, space.recipe("linear"), tmp_path / "out", threads=3, tile=4096, work=Work(report))
    assert len(after) == len(set(after)), "a thread went on to another tile"
    assert not any(thread.name.startswith("merge") for thread in threading.enumerate())
    assert names(tmp_path) == []


@pytest.mark.parametrize("recipe", ["linear", "copy"])
def test_a_shard_cut_short_while_it_is_read(recipe: str, tmp_path: Path) -> None:
    for seed in range(2):
        write_llama(tmp_path / "in" / f"m{seed}", seed=seed)
    write_recipes(tmp_path / "in")
    space, shard = open_project(tmp_path / "in"), tmp_path / "in" / "m1" / "model.safetensors"

    def cut(*_: object) -> None:
        os.truncate(shard, 5000)

    with pytest.raises(EngineError, match=r"ends at byte 5000, \d+ bytes early; fetch it again") as caught:
        api.merge(space, space.recipe(recipe), tmp_path / "out", threads=1, work=Work(cut))
    assert str(caught.value).startswith(str(shard))
    assert names(tmp_path) == ["in"]


# -- shards that lie ---------------------------------------------------------------------------------------------------


def lies(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes, dict[str, Any]], bytes]:
    """The shard with its header changed."""

    def changed(data: bytes, header: dict[str, Any]) -> bytes:
        change(header)
        return raw_file(header, data)

    return changed


def move(header: dict[str, Any], name: str, begin: int = 0, end: int = 0) -> None:
    offsets = header[name]["data_offsets"]
    header[name]["data_offsets"] = [offsets[0] + begin, offsets[1] + end]


def twice(data: bytes, header: dict[str, Any]) -> bytes:
    entry = json.dumps(header[NORM])
    return raw_file(json.dumps(header).replace("{", f'{{"{NORM}": {entry}, ', 1).encode(), data)


HEAD, NORM, FIRST = "lm_head.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.weight"
LIES: dict[str, tuple[Callable[[bytes, dict[str, Any]], bytes], str, str]] = {
    "overlap": (lies(lambda h: move(h, NORM, -2, -2)), NORM, "overlaps tensor"),
    "gap": (lambda data, h: (move(h, NORM, 2, 2), raw_file(h, data + b"12"))[1], NORM, "leaves a gap of 2 bytes"),
    "end beyond the file": (lies(lambda h: move(h, NORM, end=64)), NORM, "exceed the"),
    "begin after end": (lies(lambda h: h[HEAD].update(data_offsets=[9, 1])), HEAD, "are negative or reversed"),
    "negative begin": (lies(lambda h: h[HEAD].update(data_offsets=[-8, 1])), HEAD, "are negative or reversed"),
    "wrong shape": (lies(lambda h: h[FIRST].update(shape=[5, 16])), FIRST, "takes 160 bytes but has 128"),
    "wrong dtype": (lies(lambda h: h[FIRST].update(dtype="F32")), FIRST, "takes 256 bytes but has 128"),
    "name twice": (twice, NORM, "twice; save the checkpoint again with distinct names"),
    "bytes of no tensor": (lambda data, h: raw_file(h, data + b"12"), NORM, "2 bytes after tensor"),
    "cut short": (lambda data, h: raw_file(h, data[:-100]), "tensor 'model.", "data bytes of the file"),
    "header longer than the file": (lambda data, h: raw_file(h, data, length=10**7), "header length", "the file's"),
    "huge header": (lambda data, h: raw_file(h, data, length=2**63), "header length", "exceeds 100000000 bytes"),
    "header shorter than it is": (lambda data, h: raw_file(h, data, length=40), "header", "not JSON"),
    "header of other bytes": (lambda data, h: raw_file(b"\xff\xfe\x00" * 40, data), "header", "not JSON"),
    "empty file": (lambda data, h: b"", "0 bytes", "too few for a header"),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lies")
    write_llama(root / "m1", 2)
    write_recipes(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_a_shard_that_lies_about_itself(lie: str, llama: Path, tmp_path: Path) -> None:
    shard = llama / "m1" / "model.safetensors"
    honest = shard.read_bytes()
    start = 8 + int.from_bytes(honest[:8], "little")
    header = json.loads(honest[8:start])
    assert max(header.values(), key=lambda entry: entry.get("data_offsets", [0, 0])[1]) is header[NORM]
    change, where, what = LIES[lie]
    try:
        shard.write_bytes(change(honest[start:], header))
        message = the_error(run_command("merge", "copy", str(tmp_path / "out"), root=llama))
    finally:
        shard.write_bytes(honest)
    assert f"{shard}: " in message
    assert where in message
    assert what in message
    assert ";" in message, "the remedy follows a semicolon"
    assert names(tmp_path) == []
