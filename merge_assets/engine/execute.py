"""The executor: fills the byte ranges that a plan has fixed, from several threads, in bounded memory.

Work is cut into jobs: a run of elements of an elementwise tensor, or a whole tensor if its method takes statistics
first. Every worker owns one set of buffers, so memory is bounded by a setting, whatever the model's size.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from merge_assets.engine.devices import Devices, choose
from merge_assets.engine.files import InputFiles, OutputFile
from merge_assets.engine.memory import GPU_TILE, MEMORY, TILE, Room, cpu_room, gpu_tiles, out_of_memory
from merge_assets.engine.witness import VerifyInputs, Witness
from merge_assets.engine.worker import CpuWorker, Job, Shared, copy
from merge_assets.errors import EngineError
from merge_assets.plan import OutputTensor, Plan
from merge_assets.records import BuildReport
from merge_assets.work import UNATTENDED, Work

if TYPE_CHECKING:
    from merge_assets.engine.gpu import GpuWorker

_JOB_BYTES = 32 << 20


class Landing(Protocol):
    """What is told of finished tensors."""

    durable: bool
    """Whether the shards have to be on the disk at the end."""

    @property
    def finished(self) -> frozenset[str]:
        """Names of the tensors that need no work."""
        ...

    @property
    def flaws(self) -> Mapping[str, int]:
        """NaN and infinite elements of finished tensors."""
        ...

    def landed(self, name: str, flaws: int, digest: str | None = None) -> None:
        """All bytes of a tensor are in its shard; called once for each, from the threads that compute.

        Args:
            name: of the tensor.
            flaws: NaN and infinite elements that were computed.
            digest: of the bytes (:mod:`merge_assets.digests`).
        """
        ...


def execute(
    plan: Plan,
    directory: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    tile: int | None = None,
    memory: int | None = None,
    work: Work = UNATTENDED,
    allow_nonfinite: bool = False,
    inputs: InputFiles | None = None,
    landing: Landing | None = None,
    verify: VerifyInputs = "full",
) -> BuildReport:
    """Write the weight shards of a plan.

    Args:
        plan: what to compute; its models' locations must be local directories, or such as ``inputs`` knows.
        directory: existing folder; without the shards, unless there is a ``landing``. On an error the half-written shards
            stay in it, so give a staging folder.
        device: ``auto`` (GPUs if there are any), ``cpu``, ``cuda`` (all GPUs) or ``cuda:N``.
        threads: workers; default is the number of CPUs this process may use. On GPUs there are fewer if memory is short.
        tile: elements per tile; the output bytes do not depend on it.
        memory: bound of all workers' buffers on this machine, bytes; default :data:`MEMORY`. Tensors that are swept more
            than once are kept within it where they fit; tiles are made smaller to keep it, and to keep within what is
            free on a GPU.
        work: told bytes read, bytes to read and a tensor's name, and asked, at every tile, from any worker.
        allow_nonfinite: accept NaN and infinities in the output.
        inputs: where the inputs are read; default: local files. It is closed at the end.
        landing: what is told of finished tensors; the shards are then in ``directory`` already, with their headers.
        verify: how much of the inputs whose digests the plan has is compared with these.

    Raises:
        InputError: an input is not what the plan says, or changed while it was read.
        EngineError: a file cannot be read or written, memory ran out, or the output would hold NaN or infinities.
        Stopped: on request.
    """
    began = time.perf_counter()
    workers = threads or len(os.sched_getaffinity(0))
    devices = choose(device, plan.tensors)
    finished = landing.finished if landing else frozenset()
    todo = [tensor for tensor in plan.tensors if tensor.name not in finished]
    workers, room = _room(devices, todo, tile, workers, memory or MEMORY)
    with ExitStack() as stack:
        source = stack.enter_context(inputs or InputFiles())
        outputs = {}
        for number in dict.fromkeys(tensor.shard for tensor in todo):
            shard = plan.shards[number]
            outputs[number] = OutputFile(directory / shard.file, None if landing else shard)
            stack.callback(outputs[number].close)
        witness = Witness(plan, source, verify, outputs=landing is not None)
        shared = Shared(plan, source, outputs, work, sum(tensor.bytes_to_read() for tensor in todo), witness)
        stack.callback(shared.release_torch)
        jobs = list(_jobs(todo))
        source.expect(plan, [job.tensor for job in jobs])
        _run(shared, jobs, workers, devices, room, landing)
        durable = landing is None or landing.durable
        for output in outputs.values():
            output.finish(durable=durable)
    nonfinite = shared.nonfinite | dict(landing.flaws if landing else {})
    if nonfinite and not allow_nonfinite:
        listing = ", ".join(f"{name} ({count})" for name, count in sorted(nonfinite.items())[:5])
        raise EngineError(
            f"{len(nonfinite)} output tensors hold NaN or infinite elements: {listing}; check the inputs and "
            "parameters, use a wider dtype, or accept them with `allow_nonfinite: true` in the recipe"
        )
    copied = sum(tensor.is_copy for tensor in todo)
    return BuildReport(
        seconds=time.perf_counter() - began,
        bytes_read=shared.read,
        bytes_written=sum(tensor.nbytes for tensor in todo) if landing else plan.bytes_to_write,
        tensors_computed=len(todo) - copied,
        tensors_copied=copied,
        peak_memory=_peak_memory(),
        threads=workers,
        device=devices.name,
        nonfinite=nonfinite,
        geometry=dict(sorted(shared.geometry.items())),
    )


def _peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    with suppress(OSError, StopIteration):  # Linux; what getrusage says there begins with the parent's
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _room(
    devices: Devices, tensors: Sequence[OutputTensor], tile: int | None, workers: int, memory: int
) -> tuple[int, Room]:
    """How many workers there are, and what each may take."""
    if not devices.gpus:
        return workers, cpu_room(tensors, tile or TILE, workers, memory)
    if any(tensor.needs_cpu for tensor in tensors):
        memory //= 2  # half for those
    there = [tensor for tensor in tensors if not tensor.is_copy and not tensor.needs_cpu]
    workers, gpu_tile = gpu_tiles(there, tile or GPU_TILE, workers, memory, devices.free())
    return workers, replace(cpu_room(tensors, tile or TILE, workers, memory), gpu_tile=gpu_tile)


def _jobs(tensors: Sequence[OutputTensor]) -> Iterator[Job]:
    """The largest tensors that need statistics first, since one worker does a whole one; then all else in file order."""
    computed = [tensor for tensor in tensors if tensor.elements]
    for tensor in tensors:
        if not tensor.elements:
            yield Job(tensor, 0, 0)
    whole = [tensor for tensor in computed if tensor.needs_statistics]
    for tensor in sorted(whole, key=lambda tensor: -tensor.elements):
        yield Job(tensor, 0, tensor.elements)
    for tensor in computed:
        if tensor.needs_statistics:
            continue
        step = _JOB_BYTES * tensor.elements // tensor.nbytes
        for start in range(0, tensor.elements, step):
            yield Job(tensor, start, min(start + step, tensor.elements))


class _Workers(threading.local):
    """The workers of a thread, by device; threads are numbered, to be spread over GPUs."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.number = next(numbers)
        self.by_device: dict[str, CpuWorker | GpuWorker] = {}


class _Remaining:
    """How many jobs of each tensor are left."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left = Counter(job.tensor.name for job in jobs)
        self._lock = threading.Lock()

    def done(self, job: Job) -> bool:
        """Count a finished job; True for the last one of its tensor."""
        with self._lock:
            self._left[job.tensor.name] -= 1
            return not self._left[job.tensor.name]


def _run(shared: Shared, jobs: list[Job], workers: int, devices: Devices, room: Room, landing: Landing | None) -> None:
    local = _Workers(count())
    remaining = _Remaining(jobs)

    def work(job: Job) -> None:
        if shared.failure is not None:
            return
        try:
            compute(job)
            if remaining.done(job):
                digest = shared.witness.settle(job.tensor)
                shared.inputs.release(job.tensor)
                if landing is not None:
                    landing.landed(job.tensor.name, shared.nonfinite.get(job.tensor.name, 0), digest)
        except BaseException as error:
            shared.fail(_no_room(job, error) if out_of_memory(error) else error)

    def compute(job: Job) -> None:
        if job.end == job.start:
            return
        if job.tensor.is_copy:
            copy(shared, job)
        else:
            where = "cpu" if job.tensor.needs_cpu else devices.of_worker(local.number)
            if where not in local.by_device:
                local.by_device[where] = _worker(shared, where, room)
            local.by_device[where].compute(job)
        if landing is None or landing.durable:
            begin, end = job.place
            shared.outputs[job.tensor.shard].start_writing_back(begin, end - begin)

    with ThreadPoolExecutor(workers, "merge") as pool:
        try:
            wait([pool.submit(work, job) for job in jobs])
        except BaseException as error:  # such as an interrupt
            shared.fail(error)
    if shared.failure is not None:
        raise shared.failure


def _no_room(job: Job, error: BaseException) -> EngineError:
    found = EngineError(
        f"{job.tensor.name}: memory ran out: {str(error).partition(chr(10))[0] or type(error).__name__}; lower the settings "
        "`memory` and `threads`, or end what else takes memory, then build again: what is finished is kept"
    )
    found.__cause__ = error
    return found


def _worker(shared: Shared, device: str, room: Room) -> CpuWorker | GpuWorker:
    if device == "cpu":
        return CpuWorker(shared, room.tile, room.hold)
    import torch

    from merge_assets.engine.gpu import GpuWorker

    return GpuWorker(shared, torch.device(device), room)
