"""How the executor cuts work and shares its memory among workers, what it leaves out, and what it does at the end."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_assets.engine.execute import execute
from merge_assets.engine.files import OutputFile
from merge_assets.engine.worker import Shared
from merge_assets.errors import EngineError
from merge_assets.work import Work
from tests.execution_support import (
    Watched,
    Watcher,
    copied,
    mean,
    run,
    run_into,
    scaled,
    slerp,
    write_model,
    write_models,
)
from tests.merging import plan_text
from tests.synthetic import read_tensors, write_checkpoint

MIB = 1 << 20

Range = tuple[int, int]
"""Where bytes begin in a file, and how many there are."""

# -- memory ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "elements"),
    [
        ({"memory": 2_400_000, "threads": 1, "tile": 1 << 20}, 100_000),  # 8 bytes in each of two inputs and a result
        ({"memory": 2_400_000, "threads": 4, "tile": 1 << 20}, 25_000),
        ({"memory": 2_400_000, "threads": 4, "tile": 20_000}, 20_000),
        ({"memory": 10, "threads": 4, "tile": 20_000}, 1024),
        ({}, 262_144),
    ],
)
def test_tiles_of_all_workers_together_fit_into_the_memory(
    options: dict[str, int], elements: int, tmp_path: Path
) -> None:
    folders = write_models(tmp_path, "ab", {"w": 300_000})
    inputs = Watched()
    run(plan_text(mean(folders), tmp_path), tmp_path, inputs=inputs, **options)
    assert max(inputs.reads) == 4 * elements
    assert sum(inputs.reads) == 2 * 4 * 300_000


def test_tiles_fit_for_the_tensor_of_the_most_inputs(tmp_path: Path) -> None:
    """A layer of both models, and one of the first alone, read in runs of the same size."""
    config = {"architectures": ["X"], "model_type": "llama", "num_hidden_layers": 1, "vocab_size": 4}
    tensors = {"model.layers.0.w": torch.ones(300_000)}
    one, other = (
        f"{{model: {write_checkpoint(tmp_path / n, tensors, config)}, layer_range: [0, 1], parameters: {{weight: 1}}}}"
        for n in "ab"
    )
    text = f"merge_method: linear\nslices: [{{sources: [{one}, {other}]}}, {{sources: [{one}]}}]\n"
    inputs = Watched()
    run(plan_text(text, tmp_path), tmp_path, inputs=inputs, memory=2_400_000, tile=1 << 20)
    assert inputs.reads == [400_000] * 9


INPUTS = 2 * 4 * 100_000
TILE = 1024 * 8 * 3
"""Bytes of two inputs, and of the smallest tile of them and their result."""


@pytest.mark.parametrize(
    ("memory", "threads", "sweeps"),
    [(INPUTS + TILE, 1, 1), (INPUTS + TILE - 1, 1, 2), (3 * (INPUTS + TILE), 3, 1), (3 * (INPUTS + TILE) - 1, 3, 2)],
)
def test_inputs_that_are_swept_twice_are_kept_where_they_fit_beside_a_tile(
    memory: int, threads: int, sweeps: int, tmp_path: Path
) -> None:
    plan = plan_text(slerp(*write_models(tmp_path, "ab", {"w": 100_000})), tmp_path)
    assert run(plan, tmp_path, memory=memory, threads=threads, tile=1).bytes_read == sweeps * INPUTS


# -- jobs --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written_back(monkeypatch: pytest.MonkeyPatch) -> list[Range]:
    """What begins its way to the disk."""
    seen: list[Range] = []
    monkeypatch.setattr(OutputFile, "start_writing_back", lambda file, begin, count: seen.append((begin, count)))
    return seen


@pytest.mark.parametrize("recipe", [copied, scaled], ids=["copied", "computed"])
def test_work_is_cut_into_runs_of_32_mebibytes_each_of_which_is_at_once_on_its_way_to_the_disk(
    recipe: Any, written_back: list[Range], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "m", {"a": torch.ones(100), "w": torch.ones(20, MIB, dtype=torch.bfloat16)})
    plan = plan_text(recipe(folder), tmp_path)
    begin = {tensor.name: tensor.begin for tensor in plan.tensors}
    run(plan, tmp_path)
    assert sorted(written_back) == sorted([(begin["a"], 400), (begin["w"], 32 * MIB), (begin["w"] + 32 * MIB, 8 * MIB)])


def test_a_tensor_of_several_jobs_is_landed_and_released_once(tmp_path: Path) -> None:
    weights = torch.zeros(40 * MIB, dtype=torch.uint8).view(torch.float8_e4m3fn)
    plan = plan_text(copied(write_model(tmp_path / "m", {"w": weights})), tmp_path)
    inputs, landing = Watched(), Watcher()
    run_into(plan, tmp_path, landing, inputs=inputs)
    assert inputs.expected == ["w", "w"]
    assert inputs.released == ["w"]
    assert landing.tensors == [("w", 0)]


SIZES = {"a": 30, "b": 50, "d": 40}


@pytest.mark.parametrize(("recipe", "order"), [(slerp, "bda"), (lambda *folders: mean(folders), "abd")])
def test_large_tensors_of_statistics_come_first_and_all_others_as_they_lie(
    recipe: Any, order: str, tmp_path: Path
) -> None:
    plan = plan_text(recipe(*write_models(tmp_path, "ab", SIZES)), tmp_path)
    inputs, landing = Watched(), Watcher()
    run_into(plan, tmp_path, landing, inputs=inputs)
    assert inputs.expected == inputs.released == list(order)
    assert [name for name, _ in landing.tensors] == list(order)


def test_nothing_is_read_for_a_tensor_that_has_nothing_in_it(tmp_path: Path) -> None:
    """Of whole numbers; weights without elements are in no plan."""
    tensors = {"a": torch.ones(30), "z": torch.ones(0, 4, dtype=torch.int64)}
    report = run(plan_text(copied(write_model(tmp_path / "m", tensors)), tmp_path), tmp_path)
    assert report.bytes_read == 4 * 30
    assert {name: tuple(tensor.shape) for name, tensor in read_tensors(tmp_path / "out").items()} == {
        "a": (30,),
        "z": (0, 4),
    }


def test_an_interrupt_stops_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_text(mean(write_models(tmp_path, "ab", {"w": 100_000})), tmp_path)
    told, reports = threading.Event(), 0
    fail = Shared.fail

    def tell(shared: Shared, error: BaseException) -> None:
        fail(shared, error)
        told.set()

    def interrupt(*_: object) -> None:
        nonlocal reports
        reports += 1
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert told.wait(60), "nobody heard of it"

    monkeypatch.setattr(Shared, "fail", tell)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(plan, tmp_path, tile=1024, work=Work(interrupt))
    finally:
        signal.signal(signal.SIGINT, before)
    assert reports == 1


def test_a_failed_execution_leaves_no_file_open(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", {"a": torch.ones(10), "b": torch.ones(10)})
    plan = plan_text(copied(folder), tmp_path, shard_size=40)
    os.truncate(folder / "model.safetensors", 10)
    with pytest.raises(EngineError, match="ends at byte 10"):
        run(plan, tmp_path)
    held = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [path for path in held if path.is_relative_to(tmp_path)] == []


def test_torch_has_its_threads_again_afterwards(tmp_path: Path) -> None:
    """It computes the importance of ``arcee_fusion``, in one thread of each worker; threads made later get its number."""
    one, other = write_models(tmp_path, "ab", {"w": 100})
    plan = plan_text(f"merge_method: arcee_fusion\nbase_model: {one}\nmodels: [{{model: {other}}}]\n", tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(plan, tmp_path)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


# -- what is finished, and what has to stay ----------------------------------------------------------------------------------


def test_what_is_finished_is_neither_read_nor_written_nor_counted(tmp_path: Path) -> None:
    plan = plan_text(scaled(write_model(tmp_path / "m", {n: torch.ones(10) for n in "abc"})), tmp_path)
    landing = Watcher(finished=["b"])
    totals: set[int] = set()
    report = run_into(plan, tmp_path, landing, work=Work(lambda _done, total, _name: totals.add(total)))
    assert {name: tensor.tolist() for name, tensor in read_tensors(tmp_path / "out").items()} == {
        "a": [2.0] * 10,
        "b": [0.0] * 10,
        "c": [2.0] * 10,
    }
    assert landing.tensors == [("a", 0), ("c", 0)]
    assert (report.bytes_read, report.bytes_written, totals) == (80, 80, {80})
    assert (report.tensors_computed, report.tensors_copied) == (2, 0)


def test_where_all_is_finished_nothing_is_done(tmp_path: Path) -> None:
    plan = plan_text(scaled(write_model(tmp_path / "m", {n: torch.ones(10) for n in "ab"})), tmp_path)
    report = run_into(plan, tmp_path, Watcher(finished="ab"))
    assert (report.bytes_read, report.bytes_written, report.tensors_computed, report.tensors_copied) == (0, 0, 0, 0)


def test_shards_in_which_all_is_finished_are_not_opened(tmp_path: Path) -> None:
    tensors = {n: torch.ones(100) for n in "ab"}
    plan = plan_text(copied(write_model(tmp_path / "m", tensors)), tmp_path, shard_size=400)
    (tmp_path / "out").mkdir()
    first, second = plan.shards
    OutputFile(tmp_path / "out" / second.file, second).finish()
    report = execute(plan, tmp_path / "out", device="cpu", landing=Watcher(finished=["a"]))
    assert report.bytes_written == 400
    assert not (tmp_path / "out" / first.file).exists()


@pytest.mark.parametrize("durable", [True, False, None])
def test_bytes_are_brought_to_the_disk_if_they_are_to_stay_there(
    durable: bool | None, written_back: list[Range], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are where nobody is told of them."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda held: synced.append(Path(f"/proc/self/fd/{held}").readlink().name))
    plan = plan_text(copied(write_model(tmp_path / "m", {"a": torch.ones(10)})), tmp_path)
    if durable is None:
        run(plan, tmp_path)
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "model.safetensors").write_bytes(bytes(plan.shards[0].size))
        execute(plan, tmp_path / "out", device="cpu", landing=Watcher(durable=durable))
    assert synced == ([] if durable is False else ["model.safetensors"])
    assert written_back == ([] if durable is False else [(plan.tensors[0].begin, 40)])
