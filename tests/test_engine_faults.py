"""Real faults: processes killed, disks full, reads that fail, shards that are cut short or lie.

Each ends in one clear error that names the file, and in nothing that a reader would take for a model.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.engine import files as engine_files
from merge_assets.errors import EngineError, StoreError
from merge_assets.settings import Settings
from merge_assets.store import ArtifactStore
from tests.checkpoint_support import raw_file
from tests.commands import command_environment, run_command
from tests.faults.support import build_faults, content, disk, names, the_error, write_project, write_recipes
from tests.store_support import finish, spawn
from tests.synthetic import write_llama

SLOW_DISK = {"FAULT_SLOW": "10000"}
"""So that a process spends most of its life in the engine, as it does with real models, and not in starting up."""

# Without the checks of a variant: they write nothing, and spend seconds on importing transformers.
BUILD = """
import sys
from merge_assets import api
sys.modules["merge_assets.api.build"].check_variant = lambda *_, **__: []
space = api.Workspace.open()
api.build(space, space.recipe("ties"))
"""


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


def kill_at_random(command: list[str], root: Path, kills: int, check: Callable[[int], bool], faults: str) -> int:
    """Start a command and kill it, at moments spread over its life from its first instruction to its last.

    Args:
        command: arguments of Python.
        root: where to run it.
        kills: how many.
        check: called after each with the process id; True if the process had begun to write.
        faults: the library of faults.

    Returns:
        How many had begun to write.
    """

    def start() -> subprocess.Popen[bytes]:
        output = subprocess.DEVNULL
        environment = command_environment(root) | {"LD_PRELOAD": faults, **SLOW_DISK}
        return subprocess.Popen([sys.executable, *command], cwd=root, env=environment, stdout=output, stderr=output)

    began = time.monotonic()
    process = start()
    assert process.wait() == 0
    lifetime = time.monotonic() - began
    check(process.pid)
    chance = random.Random(kills)
    moments = [(number + chance.random()) / kills * lifetime for number in range(kills)]
    chance.shuffle(moments)
    writing = 0
    while moments:
        process = start()
        time.sleep(moments[-1])
        process.kill()
        if process.wait() == 0:
            moments[-1] *= 0.9  # it was quicker than the first
        else:
            moments.pop()
        writing += check(process.pid) and process.returncode != 0
    return writing


def models_below(root: Path) -> set[str]:
    """The folders in which a reader would look for a model: visible, with a config or with weights."""
    marks = ("config.json", "*.safetensors", "*.safetensors.index.json")
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return {folder.name for folder in folders if any(any(folder.glob(mark)) for mark in marks)}


@pytest.mark.slow
@pytest.mark.parametrize(("overwrite", "kills"), [(False, 24), (True, 16)], ids=["fresh", "overwrite"])
def test_a_merge_killed_at_any_moment_shows_no_half_model(
    overwrite: bool, kills: int, project: Path, faults: str
) -> None:
    """OUT is absent, or the older model, or the new one, byte for byte; after every fourth kill, the re-run is whole."""
    inputs = {"m0", "m1", "m2"}
    out, older = project / "out", project / "kept" / "older"
    merge = ["merge", "ties", str(out), "--shard-size", "9MB", *(["--overwrite"] if overwrite else [])]
    assert run_command("merge", "copy", str(older), root=project).code == 0
    assert run_command("merge", "ties", str(project / "kept" / "whole"), "--shard-size", "9MB", root=project).code == 0
    before, whole = content(older) if overwrite else {}, content(project / "kept" / "whole")
    assert len([name for name in whole if name.endswith(".safetensors")]) > 2
    looked = 0

    def reset() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if overwrite:
            shutil.copytree(older, out)

    def check(process: int) -> bool:
        nonlocal looked
        found = content(out)
        assert found in (before, whole), sorted(found)
        assert models_below(project) == inputs | ({"out"} if found else set())
        left = any(name.startswith(f".out.merging-{process}-") for name in names(project))
        looked += 1
        if looked % 4 == 0 or found == whole:
            reset()
        if looked % 4 == 0:
            assert run_command(*merge, root=project).code == 0
            assert content(out) == whole
            assert [name for name in names(project) if name.startswith(".")] == [], "dead merges left these"
            reset()
        return left

    try:
        reset()
        assert kill_at_random(["-m", "merge_assets", *merge], project, kills, check, faults) >= 0.4 * kills
    finally:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(project / "kept")


@pytest.mark.slow
def test_a_build_killed_at_any_moment_shows_no_half_version(project: Path, faults: str) -> None:
    """The store has no version, or a whole one."""
    root, line = project / "var" / "store", "variants/ties"
    store = ArtifactStore(str(root))

    def built() -> dict[str, str]:
        subprocess.run([sys.executable, "-c", BUILD], cwd=project, env=command_environment(project), check=True)
        (artifact,) = store.versions(line)
        assert store.verify(artifact) == []
        return {name: entry.digest for name, entry in artifact.manifest.files.items()}

    def check(_: int) -> bool:
        versions = store.versions(line)
        assert all(store.verify(version) == [] for version in versions)
        begun = root.exists() and names(root / ".drafts") != [".lock"]
        if versions:
            shutil.rmtree(root)
        return begun

    whole = built()
    shutil.rmtree(root)
    assert kill_at_random(["-c", BUILD], project, 10, check, faults) >= 4
    assert built() == whole
    assert names(root / ".drafts") == [".lock"]
    shutil.rmtree(project / "var")


@pytest.mark.parametrize("how", ["swap", "aside"])
def test_death_at_every_step_of_replacing_a_model(how: str, tmp_path: Path) -> None:
    """See :mod:`tests.faults.every_step`, which looks after each of the deaths."""
    write_llama(tmp_path / "m1", 2)
    write_recipes(tmp_path)
    code = "import runpy\nrunpy.run_module('tests.faults.every_step', run_name='__main__')\n"
    before, after = map(int, finish(spawn(code, tmp_path, how)).split())
    assert before > 8
    assert after > 4


def test_a_living_merge_keeps_its_folder(project: Path, tmp_path: Path) -> None:
    """Only what dead processes left is removed: another merge into the same folder goes on undisturbed."""
    space, out = open_project(project), tmp_path / "out"
    seen: list[str] = []

    def merge_again(*_: object) -> None:
        if not seen:
            seen.extend(names(tmp_path))
            assert run_command("merge", "copy", str(out), root=project).code == 0
            assert names(tmp_path) == [*seen, "out"]

    api.merge(space, space.recipe("linear"), out, threads=1, progress=merge_again)
    assert len(seen) == 1
    assert names(tmp_path) == ["out"]
    assert "merge_method: linear" in (out / "recipe.yaml").read_text()


# -- full disks --------------------------------------------------------------------------------------------------------


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
        assert names(small / "store") == [".drafts"]
        assert names(small / "store" / ".drafts") == [".lock"]


def test_writes_that_are_lost_on_their_way_to_the_disk(project: Path, faults: str, tmp_path: Path) -> None:
    environment = {"LD_PRELOAD": faults, "FAULT_FSYNC": "1"}
    message = the_error(run_command("merge", "copy", str(tmp_path / "out"), root=project, environment=environment))
    assert "/model.safetensors: cannot be made durable: Input/output error; check the disk" in message
    assert names(tmp_path) == []


# -- reads that fail ---------------------------------------------------------------------------------------------------


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
    failed = threading.Event()
    after: list[int] = []
    read = engine_files.InputFiles.read_into

    def flaky(inputs: engine_files.InputFiles, path: str, buffer: memoryview, offset: int) -> None:
        if path == str(shard) and offset > shard.stat().st_size // 3 and not failed.is_set():
            failed.set()
            raise EngineError(f"{path}: broke")
        read(inputs, path, buffer, offset)

    def progress(done: int, total: int, label: str) -> None:
        if failed.is_set():
            after.append(threading.get_ident())
            time.sleep(0.3)  # the error needs a moment to get about

    monkeypatch.setattr(engine_files.InputFiles, "read_into", flaky)
    with pytest.raises(EngineError, match="broke"):
        api.merge(space, space.recipe("linear"), tmp_path / "out", threads=3, tile=4096, progress=progress)
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
        api.merge(space, space.recipe(recipe), tmp_path / "out", threads=1, progress=cut)
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
