"""Time, processor time, memory and bytes of a whole process, and the copy floor.

Import nothing large here: Linux starts the peak memory of a process at that of the process which started it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK = 8 << 20


class RunError(Exception):
    """A process that was to be timed failed."""


@dataclass(frozen=True)
class Usage:
    """What one process, with its children, took.

    Attributes:
        wall: seconds from start to end.
        cpu: seconds of processor time, user and system.
        memory: peak resident memory, bytes: the largest of the process and its children.
        read: bytes read by system calls; reads through mapped memory, as mergekit's, are counted nowhere.
        written: bytes of pages made dirty, whichever way they were written.
        engine: seconds that the program itself says its work took, without start-up; ``None`` if it does not say.
        output: bytes of the weight files it left.
    """

    wall: float
    cpu: float
    memory: int
    read: int
    written: int
    engine: float | None
    output: int


def run(command: Sequence[str | Path], out: Path, log: Path) -> Usage:
    """Run a program that makes the folder ``out``, on a quiet disk, and remove the folder.

    Args:
        command: program and arguments.
        out: folder that it writes; removed before and after.
        log: file for what it prints.

    Raises:
        RunError: it failed.
    """
    clear(out)
    with log.open("w") as printed:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, env=_environment())
        # The counters of a process are there until it is reaped, and wait4 reaps it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = time.perf_counter() - began
        counters = _counters(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunError(f"{' '.join(map(str, command))} ended with code {process.returncode}; see {log}")
    output = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    clear(out)
    return Usage(
        wall=wall,
        cpu=used.ru_utime + used.ru_stime,
        memory=used.ru_maxrss * 1024,
        read=counters["rchar"],
        written=counters["write_bytes"] - counters["cancelled_write_bytes"],
        engine=_engine_seconds(log.read_text()),
        output=output,
    )


def _environment() -> dict[str, str]:
    """That of this process, with compiled modules kept, as they are where people work."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _counters(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def _engine_seconds(printed: str) -> float | None:
    """The seconds of the engine's report, which ``merge --json`` prints."""
    reports = [line for line in printed.splitlines() if line.startswith("{")]
    return float(json.loads(reports[-1])["seconds"]) if reports else None


def clear(folder: Path) -> None:
    """Remove a folder and wait for the disk, so that what was written before slows nothing that comes after."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def warm(folders: Iterable[Path]) -> None:
    """Read all weights once, so that they are in the page cache as far as it holds them."""
    for file in _weights(folders):
        _read(file, bytearray(BLOCK))


def floor(inputs: Sequence[Path], output: int, out: Path, *, copies: bool) -> float:
    """Seconds to read the inputs and to write as many bytes as the output has, by plain system calls of one thread.

    Args:
        inputs: checkpoint folders.
        output: bytes to write.
        out: folder for the file, removed before and after.
        copies: the output is a copy: its bytes are copied inside the kernel, and nothing is read besides.
    """
    clear(out)
    out.mkdir(parents=True)
    buffer = bytearray(BLOCK)
    began = time.perf_counter()
    if not copies:
        for file in _weights(inputs):
            _read(file, buffer)
    with (out / "floor").open("wb", buffering=0) as target:
        if copies:
            _copy(_weights(inputs), target.fileno(), output)
        else:
            for start in range(0, output, BLOCK):
                target.write(memoryview(buffer)[: output - start])
    took = time.perf_counter() - began
    clear(out)
    return took


def _weights(folders: Iterable[Path]) -> list[Path]:
    return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def _read(file: Path, buffer: bytearray) -> None:
    with file.open("rb", buffering=0) as source:
        while source.readinto(buffer):
            pass


def _copy(sources: Sequence[Path], target: int, count: int) -> None:
    """The first ``count`` bytes of the files, begun anew after the last one."""
    left = count
    while left:
        for file in sources:
            with file.open("rb") as source:
                while left and (copied := os.copy_file_range(source.fileno(), target, min(left, 1 << 30))):
                    left -= copied
