"""The executor: fills the byte ranges that a plan has fixed, from several threads, in bounded memory.

Work is cut into jobs: a run of elements of an elementwise tensor, or a whole tensor if its method takes statistics
first. Every worker owns one set of buffers, so memory is threads × (inputs + few) × tile, whatever the model's size.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from merge_assets.engine.files import InputFiles, OutputFile
from merge_assets.errors import EngineError, Stopped
from merge_assets.plan import OutputTensor, Plan, methods
from merge_assets.progress import Progress, ShouldStop

TILE = 1 << 17
"""Elements per tile: float32 tiles of two inputs and a result stay in a 2 MiB L2 cache."""

_JOB_BYTES = 32 << 20


@dataclass(frozen=True)
class BuildReport:
    """What one execution of a plan did.

    Attributes:
        seconds: wall time.
        bytes_read: bytes of input tensors read or copied, statistic passes included.
        bytes_written: bytes of the output shards.
        tensors_computed: tensors that went through a kernel.
        tensors_copied: tensors whose bytes were copied unchanged.
        peak_memory: largest resident size of the process so far, bytes.
        threads: workers used.
        device: where the arithmetic ran.
        nonfinite: NaN or infinite elements by output tensor, where there are any.
    """

    seconds: float
    bytes_read: int
    bytes_written: int
    tensors_computed: int
    tensors_copied: int
    peak_memory: int
    threads: int
    device: str
    nonfinite: dict[str, int]


@dataclass(frozen=True)
class Job:
    """Elements ``start`` to ``end`` of one output tensor."""

    tensor: OutputTensor
    start: int
    end: int


@dataclass
class _Shared:
    """What the workers share."""

    plan: Plan
    inputs: InputFiles
    outputs: list[OutputFile]
    total: int
    progress: Progress | None
    should_stop: ShouldStop | None
    done: int = 0
    nonfinite: dict[str, int] = field(default_factory=dict)
    abort: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, count: int, label: str) -> None:
        """Count bytes read, report them, and leave if the work should stop."""
        with self.lock:
            self.done += count
            done = self.done
        if self.progress is not None:
            self.progress(done, self.total, label)
        if self.abort.is_set() or (self.should_stop is not None and self.should_stop()):
            raise Stopped(f"stopped after {done} of {self.total} bytes")


def execute(
    plan: Plan,
    directory: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    tile: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
    allow_nonfinite: bool = False,
) -> BuildReport:
    """Write the weight shards of a plan.

    Args:
        plan: what to compute; its models' locations must be local directories.
        directory: existing folder without the shards; on an error the half-written shards stay in it, so give a
            staging folder.
        device: ``auto`` (CUDA if there is one), ``cpu`` or ``cuda``.
        threads: workers; default is the number of CPUs this process may use.
        tile: elements per tile; the output bytes do not depend on it.
        memory: bound of all workers' buffers, bytes; tiles are made smaller to keep it.
        progress: called with (bytes read, bytes to read, tensor name), from any worker.
        should_stop: polled at every tile.
        allow_nonfinite: accept NaN and infinities in the output.

    Raises:
        EngineError: a file cannot be read or written, or the output would hold NaN or infinities.
        Stopped: ``should_stop`` returned True.
    """
    began = time.perf_counter()
    workers = threads or len(os.sched_getaffinity(0))
    chosen = _device(device, plan)
    size = tile or _tile(plan, TILE if chosen == "cpu" else 64 * TILE, workers, memory)
    with ExitStack() as stack:
        outputs = []
        for shard in plan.shards:
            output = OutputFile(directory / shard.file, shard.header, shard.size)
            stack.callback(output.close)
            outputs.append(output)
        shared = _Shared(plan, stack.enter_context(InputFiles()), outputs, plan.bytes_to_read, progress, should_stop)
        _run(shared, list(_jobs(plan)), workers, chosen, size)
        for output in outputs:
            output.finish()
    if shared.nonfinite and not allow_nonfinite:
        listing = ", ".join(f"{name} ({count})" for name, count in sorted(shared.nonfinite.items())[:5])
        raise EngineError(
            f"{len(shared.nonfinite)} output tensors hold NaN or infinite elements: {listing}; "
            "check the inputs and parameters, or use a wider dtype"
        )
    copied = sum(tensor.is_copy for tensor in plan.tensors)
    return BuildReport(
        seconds=time.perf_counter() - began,
        bytes_read=shared.done,
        bytes_written=plan.bytes_to_write,
        tensors_computed=len(plan.tensors) - copied,
        tensors_copied=copied,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        threads=workers,
        device=chosen,
        nonfinite=shared.nonfinite,
    )


def _device(device: str, plan: Plan) -> str:
    if device == "cpu" or all(tensor.is_copy for tensor in plan.tensors):
        return "cpu"
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise EngineError("device 'cuda' was asked for, but torch sees no CUDA device; use --device cpu or auto")
    return "cuda" if available else "cpu"


def _tile(plan: Plan, preferred: int, workers: int, memory: int | None) -> int:
    """The preferred tile, or the largest that keeps the buffers of all workers within ``memory``."""
    widest = max((len(tensor.inputs) for tensor in plan.tensors), default=1)
    return max(1024, min(preferred, (memory or sys.maxsize) // (workers * bytes_per_element(widest))))


def bytes_per_element(inputs: int) -> int:
    """Memory of one worker per element of its tile: a raw buffer and a float32 tile for each input, and results."""
    return inputs * (8 + 4) + 4 * 4


def _jobs(plan: Plan) -> Iterator[Job]:
    known = methods()
    for tensor in plan.tensors:
        elements = tensor.elements
        if elements == 0:
            continue
        whole = known[tensor.method].passes > 0 and not tensor.is_copy
        step = elements if whole else max(1, _JOB_BYTES * elements // tensor.nbytes)
        for start in range(0, elements, step):
            yield Job(tensor, start, min(start + step, elements))


def _run(shared: _Shared, jobs: list[Job], workers: int, device: str, tile: int) -> None:
    local = threading.local()

    def work(job: Job) -> None:
        if shared.abort.is_set():
            return
        if job.tensor.is_copy:
            _copy(shared, job)
            return
        from merge_assets.engine.compute import Worker

        if not hasattr(local, "worker"):
            local.worker = Worker(shared, device, tile)
        local.worker.compute(job)

    with _single_threaded_torch(jobs), ThreadPoolExecutor(workers, "merge") as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            shared.abort.set()
            raise
        failed = next((f for f in futures if f in finished and f.exception() is not None), None)
        if failed is not None:
            shared.abort.set()
            error = failed.exception()
            assert error is not None
            raise error


def _single_threaded_torch(jobs: list[Job]) -> ExitStack:
    """Keep torch from starting threads of its own inside the workers, for as long as they run."""
    stack = ExitStack()
    if any(not job.tensor.is_copy for job in jobs):
        import torch

        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
    return stack


def _copy(shared: _Shared, job: Job) -> None:
    tensor = job.tensor
    source = tensor.inputs[0]
    element = tensor.nbytes // tensor.elements
    path = str(Path(shared.plan.models[source.model].location) / source.header.file)
    shared.outputs[tensor.shard].copy_from(
        shared.inputs,
        path,
        source.header.begin + job.start * element,
        tensor.begin + job.start * element,
        (job.end - job.start) * element,
        lambda count: shared.advance(count, tensor.name),
    )
