"""Byte ranges in and out of files: positioned reads and writes that never come back short, and in-kernel copies."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from merge_assets.errors import EngineError
from merge_assets.filestate import FileState, changed_while_read, settled
from merge_assets.plan import OutputTensor, Plan, Shard, TensorInput

COPY_CHUNK = 8 << 20
"""Bytes copied between two looks at the stop flag."""

_ELSEWHERE = "make room there, or write elsewhere"

_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class InputFiles:
    """Read-only descriptors of the input shards, opened once and shared by all threads.

    :class:`merge_assets.engine.fetched.FetchedFiles` is the same for inputs that lie in an object store.

    Args:
        digested: states in which files were digested, by absolute path.
    """

    def __init__(self, digested: Mapping[str, FileState] | None = None) -> None:
        self._descriptors: dict[str, int] = {}
        self._digested = digested or {}
        self._states: dict[str, FileState] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def place(self, location: str, item: TensorInput) -> tuple[str, int]:
        """The file that holds an input, and where in it the input begins."""
        return str(Path(location, item.header.file)), item.header.begin

    def expect(self, plan: Plan, tensors: Sequence[OutputTensor]) -> None:
        """The inputs of these outputs will be read, in this order."""

    def release(self, tensor: OutputTensor) -> None:
        """The inputs of an output are no longer needed for it."""

    def descriptor(self, path: str) -> int:
        with self._lock:
            if path not in self._descriptors:
                try:
                    self._descriptors[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise EngineError(f"{path}: cannot be opened: {error.strerror}; fetch it again") from error
                self._states[path] = settled(self._descriptors[path])
            return self._descriptors[path]

    def is_vouched(self, path: str) -> bool:
        """Whether a file is in the state in which it was digested."""
        self.descriptor(path)
        digested = self._digested.get(path)
        return digested is not None and digested.is_same(self._states[path])

    def check_unchanged(self, path: str) -> None:
        """See that nothing was written into a file since it was opened.

        Raises:
            InputError: if something was.
        """
        state = self._states.get(path)
        if state is not None and not state.is_same(FileState.of(os.fstat(self.descriptor(path)))):
            raise changed_while_read(path)

    def read_into(self, path: str, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes at ``offset``.

        Raises:
            EngineError: if the file ends before, or the system reports an error.
        """
        descriptor = self.descriptor(path)
        try:
            whole = _fill(descriptor, buffer, offset)
        except OSError as error:
            raise EngineError(
                f"{path}: {len(buffer)} bytes at {offset} cannot be read: {error.strerror}; "
                "check the disk it lies on, then fetch it again"
            ) from error
        if not whole:
            end = os.fstat(descriptor).st_size
            raise EngineError(f"{path}: ends at byte {end}, {offset + len(buffer) - end} bytes early; fetch it again")


def _fill(descriptor: int, buffer: memoryview, offset: int) -> bool:
    """Fill a buffer with the bytes at an offset; False if the file ends before."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not count:
            return False
        done += count
    return True


class OutputFile:
    """An output shard of its full size that several threads fill.

    Args:
        path: the file.
        shard: what to create; ``None`` for a file that is there already, with its header.

    Raises:
        EngineError: here and in the methods that write, if the file system refuses or the disk is full.
    """

    def __init__(self, path: Path, shard: Shard | None) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if shard else 0), 0o644)
        except OSError as error:
            raise EngineError(f"{path}: cannot be created: {error.strerror}; write elsewhere") from error
        if shard is None:
            return
        header, size = shard.header, shard.size
        try:
            try:
                os.posix_fallocate(self._descriptor, 0, size)
            except OSError as error:
                raise EngineError(f"{path}: cannot reserve {size} bytes: {error.strerror}; {_ELSEWHERE}") from error
            self.write(memoryview(len(header).to_bytes(8, "little") + header.encode("ascii")), 0)
        except BaseException:
            self.close()
            raise

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._descriptor, data[done:], offset + done)
            except OSError as error:
                raise EngineError(
                    f"{self.path}: {len(data)} bytes at {offset} cannot be written: {error.strerror}; {_ELSEWHERE}"
                ) from error

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with bytes that were written."""
        try:
            whole = _fill(self._descriptor, buffer, offset)
        except OSError as error:
            raise EngineError(f"{self.path}: cannot be read back: {error.strerror}; {_ELSEWHERE}") from error
        if not whole:
            raise EngineError(f"{self.path}: is shorter than what was written into it; {_ELSEWHERE}")

    def copy_from(
        self, inputs: InputFiles, path: str, source: int, target: int, count: int, after_chunk: Callable[[int], None]
    ) -> None:
        """Copy ``count`` bytes of an input shard, inside the kernel where the file system can."""
        descriptor = inputs.descriptor(path)
        done, in_kernel = 0, True
        buffer = memoryview(b"")
        while done < count:
            step = min(COPY_CHUNK, count - done)
            if in_kernel:
                try:
                    step = os.copy_file_range(descriptor, self._descriptor, step, source + done, target + done)
                except OSError:
                    step = 0
                if step == 0:
                    # Not between these file systems, or one of the files fails: reading and writing will tell which.
                    in_kernel, buffer = False, memoryview(bytearray(COPY_CHUNK))
                    continue
            else:
                inputs.read_into(path, buffer[:step], source + done)
                self.write(buffer[:step], target + done)
            done += step
            after_chunk(step)

    def start_writing_back(self, offset: int, count: int) -> None:
        """Let the system begin to bring these bytes to the disk, so that little is left to wait for at the end."""
        if _sync_file_range is not None:
            _sync_file_range(self._descriptor, offset, count, _WRITE)  # a hint: what fails here, fails in finish(), too

    def finish(self, *, durable: bool = True) -> None:
        """Bring the bytes to the disk, if they are to be there, then close."""
        try:
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            raise EngineError(
                f"{self.path}: cannot be made durable: {error.strerror}; check the disk, or write elsewhere"
            ) from error
        finally:
            self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
