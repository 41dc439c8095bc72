"""One thread of the executor: its memory, and how it computes or copies the elements of a job."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from merge_assets.checkpoint import DTYPES
from merge_assets.digests import BLOCK
from merge_assets.engine.buffers import Buffer, Buffers
from merge_assets.engine.files import InputFiles, OutputFile
from merge_assets.engine.native import call
from merge_assets.engine.nested import nested_expression
from merge_assets.engine.operand import Computed
from merge_assets.engine.witness import Evidence, Witness
from merge_assets.errors import Stopped
from merge_assets.plan import OutputTensor, Plan, TensorInput
from merge_assets.records import Geometry
from merge_assets.work import Work

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Job:
    """Elements ``start`` to ``end`` of one output tensor."""

    tensor: OutputTensor
    start: int
    end: int

    @property
    def place(self) -> tuple[int, int]:
        """First byte in the output shard, and one past the last."""
        width = DTYPES[self.tensor.dtype]
        return self.tensor.begin + self.start * width, self.tensor.begin + self.end * width


@dataclass
class Shared:
    """What the workers of one execution share.

    Attributes:
        plan: what is executed.
        inputs: descriptors of the input shards.
        outputs: the output shards that have something left to write, by number.
        work: told bytes, and asked, at every tile.
        total: bytes that are expected to be read.
        witness: of what is read and written.
        read: bytes of input tensors read or copied.
        settled: bytes that were expected and turned out not to be needed.
        nonfinite: NaN or infinite elements by output tensor.
        geometry: how the inputs of output tensors lie to each other, where it was found.
        torch_threads: torch's own number of threads, once it was set to one.
        failure: what the first worker to fail failed of; the others stop at their next tile.
    """

    plan: Plan
    inputs: InputFiles
    outputs: Mapping[int, OutputFile]
    work: Work
    total: int
    witness: Witness
    read: int = 0
    settled: int = 0
    nonfinite: dict[str, int] = field(default_factory=dict)
    geometry: dict[str, Geometry] = field(default_factory=dict)
    torch_threads: int | None = None
    failure: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, count: int, label: str, *, needless: int = 0) -> None:
        """Count bytes read, report them, and leave if the work should stop."""
        with self.lock:
            self.read += count
            self.settled += needless
            done = self.read + self.settled
        self.work.report(done, self.total, label)
        if self.failure is not None or self.work.should_stop():
            raise Stopped(f"stopped after {done} of {self.total} bytes")

    def begin(self, job: Job) -> Evidence:
        """What a job is to tell of the bytes that it reads and writes."""
        return self.witness.begin(job.tensor, job.place[0] - job.tensor.begin)

    def finish(self, job: Job, read: int, nonfinite: int, geometry: Geometry | None, evidence: Evidence) -> None:
        """Settle the account of a computed job: what it read less than expected, the NaN and infinities it made, and what
        was found of its inputs."""
        tensor = job.tensor
        self.witness.finish(tensor, evidence)
        with self.lock:
            if nonfinite:
                self.nonfinite[tensor.name] = self.nonfinite.get(tensor.name, 0) + nonfinite
            if geometry is not None:
                self.geometry[tensor.name] = geometry
        expected = tensor.bytes_to_read() * (job.end - job.start) // max(tensor.elements, 1)
        self.advance(0, tensor.name, needless=expected - read)

    def fail(self, error: BaseException) -> None:
        """Record a failure, unless there was one before."""
        with self.lock:
            self.failure = self.failure or error

    def place(self, item: TensorInput) -> tuple[str, int]:
        """File of a stored input, and where in it the input begins."""
        return self.inputs.place(self.plan.models[item.model].location, item)

    def use_torch(self) -> None:
        """Keep torch from starting threads of its own inside the workers, until :meth:`release_torch`."""
        import torch

        with self.lock:
            if self.torch_threads is None:
                self.torch_threads = torch.get_num_threads()
            torch.set_num_threads(1)

    def release_torch(self) -> None:
        """Give torch its threads back."""
        if self.torch_threads is not None:
            import torch

            torch.set_num_threads(self.torch_threads)


def copy(shared: Shared, job: Job) -> None:
    """Copy the bytes of a job's elements from the input to the output. What is hashed is what arrived there."""
    tensor, source = job.tensor, job.tensor.inputs[0]
    output, evidence = shared.outputs[tensor.shard], shared.begin(job)
    begin, end = job.place
    at = begin
    path, first = shared.place(source)
    block = memoryview(bytearray(BLOCK)) if evidence.written is not None else None

    def after_chunk(count: int) -> None:
        nonlocal at
        end = at + count
        while block is not None and at < end:
            part = block[: min(BLOCK, end - at)]
            output.read_into(part, at)
            evidence.wrote(part)
            at += len(part)
        shared.advance(count, tensor.name)

    output.copy_from(shared.inputs, path, first + begin - tensor.begin, begin, end - begin, after_chunk)
    shared.witness.finish(tensor, evidence)


class CpuWorker:
    """Computes jobs on the CPU (a :class:`merge_assets.engine.compute.Host`)."""

    def __init__(self, shared: Shared, tile: int, hold: int) -> None:
        """Take part in an execution.

        Args:
            shared: the execution.
            tile: elements per tile.
            hold: bytes of input tensors that may be kept in memory.
        """
        self.buffers = Buffers()
        self._hold = hold
        self._shared = shared
        self._tile = tile
        self._label = ""
        self._read = 0
        self._evidence = Evidence((), None)

    def compute(self, job: Job) -> None:
        """Compute and write the elements of one job."""
        from merge_assets.engine.compute import CpuExpression

        tensor, shared = job.tensor, self._shared
        self._label, self._read, self._evidence = tensor.name, 0, shared.begin(job)
        self.buffers.reset()
        expression = CpuExpression(tensor, self, self._tile)
        width = DTYPES[tensor.dtype]
        out = self.buffers.take(expression.tile * width)
        output, nonfinite = shared.outputs[tensor.shard], 0
        for start in range(job.start, job.end, expression.tile):
            count = min(expression.tile, job.end - start)
            nonfinite += expression.compute(start, count, out, tensor.dtype)
            output.write(out.view[: count * width], tensor.begin + start * width)
            self._evidence.wrote(out.view[: count * width])
        shared.finish(job, self._read, nonfinite, expression.geometry, self._evidence)

    def read(self, item: TensorInput, offset: int, memory: memoryview) -> None:
        shared = self._shared
        path, begin = shared.place(item)
        shared.inputs.read_into(path, memory, begin + offset)
        self._evidence.saw(item, offset, memory)
        self._read += len(memory)
        shared.advance(len(memory), self._label)

    def read_pieces(self, item: TensorInput, pieces: np.ndarray, memory: Buffer) -> None:
        shared = self._shared
        path, begin = shared.place(item)
        descriptor = shared.inputs.descriptor(path)
        begins = pieces[0] + begin
        columns = [column.ctypes.data for column in (begins, pieces[1], pieces[2])]
        done = call("read_pieces", descriptor, *columns, pieces.shape[1], memory.address)
        for offset, length, place in pieces[:, done:].T.tolist():  # the first of them says why it cannot be read
            self.read(item, offset, memory.view[place : place + length])
        count = int(pieces[1, :done].sum())
        self._read += count
        shared.advance(count, self._label)

    def may_hold(self, tensor: OutputTensor) -> bool:
        return tensor.needs_statistics and sum(item.header.nbytes for item in tensor.files()) <= self._hold

    def nested(self, tensor: OutputTensor, room: int, *, whole_rows: bool, hold: bool) -> Computed:
        return nested_expression(tensor, self, room, whole_rows=whole_rows, hold=hold)

    def use_torch(self) -> None:
        self._shared.use_torch()
