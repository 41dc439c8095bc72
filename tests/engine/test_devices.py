"""On which devices a merge is computed, how its workers and tiles share their memory, and what happens when it runs out.

There is no GPU here: torch is told what it would see, and a worker that computes in torch on the CPU stands in for CUDA. Where
CUDA's allocator would refuse, the worker raises torch's own error.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from merge_assets.engine import execute as executor
from merge_assets.engine import gpu
from merge_assets.engine.devices import Devices, choose
from merge_assets.engine.execute import execute
from merge_assets.engine.memory import GPU_TILE, MEMORY, Room, bytes_on_gpu, gpu_tiles, out_of_memory
from merge_assets.engine.planned_expression import STATISTICS_TILE
from merge_assets.engine.worker import CpuWorker, Job, Shared
from merge_assets.errors import EngineError
from merge_assets.methods import find_method, is_exact
from merge_assets.plan import OutputTensor, Plan
from merge_assets.work import Work
from tests.engine.test_golden import write_family
from tests.engine.test_properties import CASES
from tests.execution_support import copied, mean, slerp, write_model, write_models
from tests.merging import plan_text

CPU = torch.device("cpu")


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int, driver: str = "/dev/nvidiactl", free: int = 1 << 33) -> None:
    """A machine with a driver's file, on which torch sees so many GPUs."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == driver or exists(path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """One tensor of some runs of a statistic."""
    root = tmp_path_factory.mktemp("two")
    return plan_text(slerp(*write_models(root, "ab", {"a": 1_300_003})), root)


# -- which ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "gpus", "driver", "name", "used"),
    [
        ("auto", 2, "/dev/nvidiactl", "cuda", ("cuda:0", "cuda:1")),
        ("auto", 1, "/dev/kfd", "cuda", ("cuda:0",)),  # ROCm
        ("auto", 1, "/dev/dxg", "cuda", ("cuda:0",)),  # WSL2, which has no /dev/nvidiactl
        ("auto", 1, "none", "cpu", ()),  # torch is not asked
        ("auto", 0, "/dev/nvidiactl", "cpu", ()),
        ("cuda", 1, "none", "cuda", ("cuda:0",)),
        ("cuda", 3, "/dev/nvidiactl", "cuda", ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda:1", 3, "/dev/nvidiactl", "cuda:1", ("cuda:1",)),
        ("cpu", 3, "/dev/nvidiactl", "cpu", ()),
    ],
)
def test_the_devices_are_those_that_torch_sees_or_the_one_that_is_asked_for(
    asked: str, gpus: int, driver: str, name: str, used: tuple[str, ...], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus=gpus, driver=driver)
    assert choose(asked, plan.tensors) == Devices(name, used)


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        ("cuda", 0, "device 'cuda' was asked for, but torch sees no CUDA device; use --device cpu or auto"),
        ("cuda:0", 0, "device 'cuda:0' was asked for, but torch sees no CUDA device; use"),
        ("cuda:2", 2, "device 'cuda:2' was asked for, but torch sees only cuda:0, cuda:1; use"),
        ("tpu", 1, "device 'tpu' was asked for, but torch sees only cuda:0; use"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    asked: str, gpus: int, message: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus=gpus)
    with pytest.raises(EngineError) as caught:
        choose(asked, plan.tensors)
    assert str(caught.value).startswith(message)


def test_a_method_of_another_package_is_computed_on_the_cpu_unless_it_says_that_it_is_exact(plan: Plan) -> None:
    ours = find_method("slerp")
    theirs = replace(ours, name="theirs")
    assert is_exact(ours) and not is_exact(theirs) and is_exact(replace(theirs, exact=True))
    assert not plan.tensors[0].needs_cpu


def test_copies_need_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1)
    copies = plan_text(copied(write_model(tmp_path / "m", {"a": torch.ones(4)})), tmp_path)
    assert choose("cuda", copies.tensors).name == "cpu"


def test_workers_are_spread_over_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=2)
    started: list[str] = []

    def worker(shared: Shared, device: str, room: Room) -> CpuWorker:
        started.append(device)
        return CpuWorker(shared, room.tile, room.hold)

    monkeypatch.setattr(executor, "_worker", worker)
    made = plan_text(mean(write_models(tmp_path, "ab", {f"t{n}": 40_000 for n in range(60)})), tmp_path)
    (tmp_path / "out").mkdir()
    report = execute(made, tmp_path / "out", device="cuda", threads=4)
    assert (report.device, report.threads) == ("cuda", 4)
    assert set(started) <= {"cuda:0", "cuda:1"}
    assert [Devices("cuda", ("cuda:0", "cuda:1")).of_worker(n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


# -- how much ------------------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 128),
    st.integers(1 << 20, 1 << 36),
    st.lists(st.integers(1 << 20, 1 << 38), min_size=1, max_size=4),
    st.sampled_from([1 << 16, GPU_TILE]),
)
def test_workers_and_tiles_keep_both_bounds_or_are_the_least_that_there_can_be(
    workers: int, memory: int, free: list[int], preferred: int
) -> None:
    tensors: list[OutputTensor] = []
    found, tile = gpu_tiles(tensors, preferred, workers, memory, free)
    assert 1 <= found <= workers and STATISTICS_TILE <= tile <= max(preferred, STATISTICS_TILE)
    least = (found, tile) == (1, STATISTICS_TILE)
    assert least or found * tile * 8 <= memory
    on_each = -(-found // len(free))
    assert tile == STATISTICS_TILE or all(on_each * tile * 120 <= each / 2 for each in free)


def test_tensors_that_only_the_cpu_computes_have_half_of_the_memory_and_copies_count_for_nothing(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (merged,) = plan.tensors
    (copy,) = plan_text(copied(*write_models(tmp_path, "a", {"a": 64})), tmp_path).tensors
    one = Devices("cuda", ("cuda:0",))

    def gpu_tile(*tensors: OutputTensor, memory: int = MEMORY) -> int:
        return executor._room(one, tensors, None, 4, memory)[1].gpu_tile

    machine(monkeypatch, gpus=1, free=1 << 30)
    assert gpu_tile(copy) == gpu_tile()
    machine(monkeypatch, gpus=1, free=1 << 40)
    assert gpu_tile(merged, copy) == gpu_tile(merged)
    monkeypatch.setattr(OutputTensor, "needs_cpu", property(lambda tensor: tensor.is_copy))
    assert gpu_tile(merged, copy) == gpu_tile(merged, memory=MEMORY // 2) < gpu_tile(merged)


def test_room_gives_large_tiles_and_a_small_setting_small_ones(plan: Plan) -> None:
    tensors = list(plan.tensors)
    assert gpu_tiles(tensors, GPU_TILE, 2, 10**9, [80 * 10**9]) == (2, GPU_TILE)
    assert gpu_tiles(tensors, GPU_TILE, 4, MEMORY, [80 * 10**9]) == (4, MEMORY // 4 // 12)
    assert gpu_tiles(tensors, GPU_TILE, 16, 10**7, [80 * 10**9]) == (
        3,
        10**7 // 3 // 12,
    )  # `memory` leaves room for three
    assert gpu_tiles(tensors, GPU_TILE, 16, MEMORY, [10**9])[0] == int(0.5 * 10**9) // (bytes_on_gpu(tensors[0]) << 18)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_method_takes_more_than_is_reckoned_with(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch allocates is counted on the CPU, by its profiler."""
    family = write_family(tmp_path, dtype)
    tile, peaks = STATISTICS_TILE, dict[str, float]()

    class Counted(gpu.GpuWorker):
        def compute(self, job: Job) -> None:
            if job.tensor.name != "long":
                super().compute(job)
                return
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                super().compute(job)
            events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
            held = largest = 0
            for event in sorted(events, key=lambda event: event.start_ns()):
                held += event.nbytes()
                largest = max(largest, held)
            peaks[job.tensor.method] = largest / tile / bytes_on_gpu(job.tensor)

    monkeypatch.setattr(executor, "_worker", lambda shared, _d, _r: Counted(shared, CPU, Room(tile, 0, tile)))
    for case in CASES.values():
        made = plan_text(case.recipe(family, dtype), tmp_path)
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        execute(made, out, device="cpu", threads=1)
    assert {method: round(share, 2) for method, share in peaks.items() if not 0.1 < share <= 1} == {}


# -- when it runs out ----------------------------------------------------------------------------------------------------------


def short_of(room: int) -> type[gpu.GpuWorker]:
    """A worker whose device has no room for tiles of more elements."""

    class Short(gpu.GpuWorker):
        tried: ClassVar[list[int]] = []

        def load(self, *arguments: Any) -> torch.Tensor:
            self.tried.append(arguments[2])
            if arguments[2] > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee documentation")
            return super().load(*arguments)

    return Short


def merged(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch, worker: type[gpu.GpuWorker] | None) -> bytes:
    """The bytes of the variant; progress ends where it should."""
    if worker is not None:
        room = Room(1 << 18, 0, 1 << 20)
        monkeypatch.setattr(executor, "_worker", lambda shared, _device, _room: worker(shared, CPU, room))
    said: list[tuple[int, int, str]] = []
    folder.mkdir()
    execute(plan, folder, device="cpu", threads=2, work=Work(lambda *step: said.append(step)))
    assert {total for _, total, _ in said} == {plan.bytes_to_read} and max(
        done for done, _, _ in said
    ) == plan.bytes_to_read
    return (folder / plan.shards[0].file).read_bytes()


def test_a_tile_that_finds_no_room_is_made_smaller(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = merged(plan, tmp_path / "cpu", monkeypatch, None)
    worker = short_of(300_000)
    assert merged(plan, tmp_path / "short", monkeypatch, worker) == expected
    assert list(dict.fromkeys(worker.tried))[:3] == [1 << 20, 1 << 19, 1 << 18]


def test_what_finds_no_room_at_all_is_computed_on_the_cpu(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged(plan, tmp_path / "cpu", monkeypatch, None)
    worker = short_of(0)
    assert merged(plan, tmp_path / "none", monkeypatch, worker) == expected
    assert worker.tried == [1 << 20, 1 << 19, 1 << 18]


def test_where_there_is_no_room_either_the_error_says_what_to_do(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(worker: CpuWorker, job: Job) -> None:
        raise MemoryError

    monkeypatch.setattr(CpuWorker, "compute", compute)
    with pytest.raises(
        EngineError, match=r"^a: memory ran out: MemoryError; lower the settings `memory` and `threads`"
    ):
        merged(plan, tmp_path / "none", monkeypatch, short_of(0))


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(gpu.GpuWorker):
        def load(self, *arguments: Any) -> torch.Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        merged(plan, tmp_path / "broken", monkeypatch, Broken)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"), True),
        (torch.OutOfMemoryError("HIP out of memory. Tried to allocate 2 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),  # of pinned memory
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (EngineError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
