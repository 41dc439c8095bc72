"""What the executor says of what it did, and which device it chooses."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from merge_assets.engine import gpu
from merge_assets.engine.execute import execute
from merge_assets.engine.memory import Room
from merge_assets.engine.worker import CpuWorker, Job, Shared
from merge_assets.errors import EngineError
from merge_assets.plan import build
from merge_assets.work import Work
from tests.execution_support import Watcher, copied, run, run_into, scaled, write_model
from tests.merging import plan_text
from tests.vocabulary_support import COMMON, EMBED, HEAD, UNION, linear, word_model

# -- what was done ------------------------------------------------------------------------------------------------------------


def flawed(folder: Path, flaws: Mapping[str, int]) -> Path:
    """A model of vectors with so many NaN each."""
    return write_model(folder, {n: torch.tensor([float("nan")] * k + [1.0] * (9 - k)) for n, k in flaws.items()})


def test_the_first_five_tensors_with_flaws_are_named_with_how_many_there_are(tmp_path: Path) -> None:
    flaws = {"f": 1, "b": 2, "g": 3, "d": 4, "a": 5, "c": 6, "e": 0}
    plan = plan_text(scaled(flawed(tmp_path / "m", flaws)), tmp_path)
    with pytest.raises(EngineError) as caught:
        run(plan, tmp_path)
    assert str(caught.value).startswith(
        "6 output tensors hold NaN or infinite elements: a (5), b (2), c (6), d (4), f (1); check the inputs"
    )


@pytest.mark.parametrize("allowed", [True, False])
def test_flaws_of_what_is_finished_count_beside_those_that_are_computed(allowed: bool, tmp_path: Path) -> None:
    plan = plan_text(scaled(flawed(tmp_path / "m", {"a": 2, "b": 3, "c": 0})), tmp_path)
    landing = Watcher(finished=["a"], flaws={"a": 7})
    if allowed:
        assert run_into(plan, tmp_path, landing, allow_nonfinite=True).nonfinite == {"a": 7, "b": 3}
    else:
        with pytest.raises(EngineError, match=r"2 output tensors .*: a \(7\), b \(3\);"):
            run_into(plan, tmp_path, landing)
    assert landing.tensors == [("b", 3), ("c", 0)]


def test_a_report_counts_what_was_done(tmp_path: Path) -> None:
    """Tensors that have the dtype of the result are copied, the others computed."""
    wide, narrow = torch.ones(100), torch.ones(50, dtype=torch.bfloat16)
    model = write_model(tmp_path / "m", {"a": wide, "b": wide.clone(), "c": narrow})
    plan = plan_text(copied(model) + "dtype: float32\n", tmp_path)
    began = time.perf_counter()
    report = run(plan, tmp_path, threads=3)
    wall = time.perf_counter() - began
    assert 0 < report.seconds < wall
    assert (report.tensors_copied, report.tensors_computed) == (2, 1)
    assert report.bytes_read == 2 * 400 + 100
    assert report.bytes_written == (tmp_path / "out" / "model.safetensors").stat().st_size == plan.bytes_to_write
    assert (report.threads, report.device, report.nonfinite) == (3, "cpu", {})


def test_there_are_as_many_workers_as_cpus_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_text(copied(write_model(tmp_path / "m", {"a": torch.ones(10)})), tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0: {1, 4, 6}}[process])
    names: set[str] = set()
    report = run(plan, tmp_path, threads=None, work=Work(lambda *_: names.add(threading.current_thread().name)))
    assert report.threads == 3
    assert names <= {"merge_0", "merge_1", "merge_2"}


def test_the_peak_of_memory_is_that_of_this_process_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``getrusage`` knows of what stood before in the process, too."""
    plan = plan_text(copied(write_model(tmp_path / "m", {"a": torch.ones(10)})), tmp_path)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=1000 * kibibytes))
    assert resident / 2 < run(plan, tmp_path).peak_memory < 2 * 1024 * kibibytes


@pytest.mark.parametrize(
    "status", ["VmPeak:\t 9999 kB\nVmHWM:\t 5000 kB\nVmRSS:\t 4000 kB\n", "VmPeak:\t 9999 kB\n", None]
)
def test_systems_tell_the_peak_in_kibibytes(
    status: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``/proc``, and where that does not say it or is not there, by ``getrusage``."""

    def read(path: Path) -> str:
        assert str(path) == "/proc/self/status"
        if status is None:
            raise FileNotFoundError
        return status

    plan = plan_text(copied(write_model(tmp_path / "m", {"a": torch.ones(10)})), tmp_path)
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000))
    assert run(plan, tmp_path).peak_memory == 5_120_000


# -- devices -----------------------------------------------------------------------------------------------------------------


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl" or exists(path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 31))


@pytest.mark.parametrize(("asked", "chosen"), [(None, "cuda"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda:0")])
def test_the_report_says_where_it_was_computed(
    asked: str | None, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plan that has something to compute beside what it copies, though no element of it, as no plan of a model is."""
    tensors = {"a": torch.ones(0, 4), "b": torch.ones(0, 4, dtype=torch.bfloat16)}
    monkeypatch.setattr(build._Builder, "_check_elements", lambda *_: None)
    plan = plan_text(copied(write_model(tmp_path / "m", tensors)) + "dtype: float32\n", tmp_path)
    pretend(monkeypatch)
    (tmp_path / "out").mkdir()
    options: dict[str, Any] = {} if asked is None else {"device": asked}
    assert execute(plan, tmp_path / "out", **options).device == chosen


def test_a_copy_needs_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_text(copied(write_model(tmp_path / "m", {"a": torch.ones(4)})), tmp_path)
    pretend(monkeypatch)
    assert run(plan, tmp_path, device="auto").device == "cpu"


def test_what_is_gathered_for_another_vocabulary_is_computed_on_the_cpu_and_all_else_on_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: dict[str, str] = {}
    on_cpu = CpuWorker.compute

    def compute(worker: CpuWorker, job: Job) -> None:
        where.setdefault(job.tensor.name, "cpu")
        on_cpu(worker, job)

    class GpuWorker(CpuWorker):
        def __init__(self, shared: Shared, device: torch.device, room: Room) -> None:
            super().__init__(shared, 1024, 0)
            self.device = device

        def compute(self, job: Job) -> None:
            where[job.tensor.name] = str(self.device)
            super().compute(job)

    models = [word_model(tmp_path / name, *COMMON, name, hundreds=n) for n, name in enumerate("ab")]
    plan = plan_text(linear(*models, more=UNION), tmp_path)
    pretend(monkeypatch)
    monkeypatch.setattr(CpuWorker, "compute", compute)
    monkeypatch.setattr(gpu, "GpuWorker", GpuWorker)
    run(plan, tmp_path, device="cuda")
    assert where == {tensor.name: "cpu" if tensor.name in (EMBED, HEAD) else "cuda:0" for tensor in plan.tensors}
