"""What was read of the inputs of an output tensor is compared with what the plan says that they are.

A block of an input is hashed as it is read, in the first sweep that comes by it. Later sweeps, and inputs that are read piece
by piece in any order, are covered by the state of the file: nothing was written into it between its opening and the last look.
What no sweep has hashed, such as rows that nobody gathers, is read once more for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Literal

from merge_assets.digests import BLOCK, Hasher, block_count, quick_root, root
from merge_assets.engine.files import InputFiles
from merge_assets.filestate import not_as_digested
from merge_assets.plan import OutputTensor, Plan, TensorInput
from merge_assets.plan.inputs import is_digest

VerifyInputs = Literal["full", "stat", "off"]
"""``full`` hashes all that is read; ``stat`` trusts files whose state is that in which they were digested, and hashes others;
``off`` looks at nothing."""

Key = tuple[int, str, int]
"""A stored tensor: its model, its file, its first byte in it."""


def key_of(item: TensorInput) -> Key:
    """What tells a stored input from all others of a plan."""
    return item.model, item.header.file, item.header.begin


def _in_one_sweep(tensor: OutputTensor) -> bool:
    """Whether nothing is read twice, so that what was hashed is all that was used."""
    keys = [key_of(item) for item in tensor.files()]
    return not tensor.needs_statistics and not tensor.makes_inputs and len(keys) == len(set(keys))


class ReadThrough:
    """What one job reads of one stored tensor, in order."""

    def __init__(self) -> None:
        self._hasher: Hasher | None = None

    def saw(self, offset: int, memory: memoryview) -> None:
        """Bytes were read from an offset on; those that were seen before, and those after a hole, are not looked at."""
        if self._hasher is None:
            if offset % BLOCK:
                return
            self._hasher = Hasher(offset // BLOCK, quick=True)
        seen = self._hasher.at - offset
        if 0 <= seen < len(memory):
            self._hasher.update(memory[seen:])

    def leaves(self, size: int) -> dict[int, bytes]:
        """Digests of the blocks that were seen whole, of a tensor of ``size`` bytes."""
        if self._hasher is None:
            return {}
        if self._hasher.at == size:
            self._hasher.finish()
        return self._hasher.leaves


class Evidence:
    """What one job reads of inputs that are looked at, and what it writes.

    Args:
        wanted: the inputs.
        written: takes what is written; ``None`` where nobody asks.
    """

    def __init__(self, wanted: Iterable[Key], written: Hasher | None) -> None:
        self.sweeps = {key: ReadThrough() for key in wanted}
        self.written = written

    def saw(self, item: TensorInput, offset: int, memory: memoryview) -> None:
        """Bytes of a stored input were read, from an offset in the tensor on."""
        sweep = self.sweeps.get(key_of(item))
        if sweep is not None:
            sweep.saw(offset, memory)

    def wrote(self, memory: memoryview) -> None:
        """The next bytes of the output were written."""
        if self.written is not None:
            self.written.update(memory)


class Witness:
    """Blocks of all output tensors that are being computed, and of their inputs.

    Args:
        plan: says what the inputs are.
        inputs: where they are read.
        verify: how much is looked at.
        outputs: whether somebody asks for the digests of what is written.
    """

    def __init__(self, plan: Plan, inputs: InputFiles, verify: VerifyInputs, *, outputs: bool) -> None:
        self._plan = plan
        self._inputs = inputs
        self._verify = verify
        self._outputs = outputs
        self._seen: dict[str, dict[Key, dict[int, bytes]]] = {}
        self._written: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def begin(self, tensor: OutputTensor, offset: int) -> Evidence:
        """For a job that writes an output tensor from an offset on (bytes, whole blocks)."""
        copied = tensor.is_copy and self._looks_at(tensor.inputs[0])
        written = Hasher(offset // BLOCK, quick=not self._outputs) if self._outputs or copied else None
        return Evidence(() if tensor.is_copy else self._wanted(tensor), written)

    def finish(self, tensor: OutputTensor, evidence: Evidence) -> None:
        """A job of an output tensor is done."""
        sizes = {key_of(item): item.header.nbytes for item in tensor.files()}
        with self._lock:
            for key, sweep in evidence.sweeps.items():
                self._seen.setdefault(tensor.name, {}).setdefault(key, {}).update(sweep.leaves(sizes[key]))
            if evidence.written is not None:
                if evidence.written.at == tensor.nbytes:
                    evidence.written.finish()
                self._written.setdefault(tensor.name, {}).update(evidence.written.leaves)

    def settle(self, tensor: OutputTensor) -> str | None:
        """All jobs of an output tensor are done: were its inputs what the plan says?

        Returns:
            The digest of what was written, where somebody asks for it.

        Raises:
            InputError: if they were not, or changed meanwhile.
        """
        with self._lock:
            seen, written = self._seen.pop(tensor.name, {}), self._written.pop(tensor.name, None)
        if not tensor.elements:
            written = {}
        found: str | None = None
        if written is not None:
            found = (root if self._outputs else quick_root)([written[k] for k in range(block_count(tensor.nbytes))])
        digest = found if self._outputs else None
        if tensor.is_copy:
            if found is not None and self._looks_at(tensor.inputs[0]):
                self._compare(tensor.inputs[0], found)
            return digest
        wanted, in_one_sweep = self._wanted(tensor), _in_one_sweep(tensor)
        for key, item in wanted.items():
            leaves, blocks = seen.get(key, {}), range(block_count(item.header.nbytes))
            in_one_sweep = in_one_sweep and len(leaves) == len(blocks)
            self._complete(item, leaves)
            self._compare(item, quick_root([leaves[number] for number in blocks]))
        if self._verify != "off" and not (in_one_sweep and all(key_of(item) in wanted for item in tensor.files())):
            for item in tensor.files():
                self._inputs.check_unchanged(self._place(item)[0])
        return digest

    def _compare(self, item: TensorInput, found: str) -> None:
        """See that bytes of a stored input which were read, or copied, have the digest that the plan says, or its second half.

        Raises:
            InputError: if they have another.
        """
        wanted = item.digest[-len(found) :]
        if found != wanted:
            path, _ = self._place(item)
            raise not_as_digested(f"{path}: tensor {item.header.name!r}", wanted, found)

    def _looks_at(self, item: TensorInput) -> bool:
        """Whether the bytes of a stored input are to be hashed."""
        if self._verify == "off" or not is_digest(item.digest):
            return False
        return self._verify == "full" or not self._inputs.is_vouched(self._place(item)[0])

    def _wanted(self, tensor: OutputTensor) -> dict[Key, TensorInput]:
        return {key_of(item): item for item in tensor.files() if self._looks_at(item)}

    def _complete(self, item: TensorInput, leaves: dict[int, bytes]) -> None:
        """Read and hash what no sweep has."""
        size, (path, begin) = item.header.nbytes, self._place(item)
        memory: memoryview | None = None
        for number in range(block_count(size)):
            if number in leaves:
                continue
            memory = memory or memoryview(bytearray(BLOCK))
            block = memory[: min(BLOCK, size - number * BLOCK)]
            self._inputs.read_into(path, block, begin + number * BLOCK)
            hasher = Hasher(number, quick=True)
            hasher.update(block)
            hasher.finish()
            leaves.update(hasher.leaves)

    def _place(self, item: TensorInput) -> tuple[str, int]:
        return self._inputs.place(self._plan.models[item.model].location, item)
