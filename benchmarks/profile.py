"""Where the time of a merge goes, by phase: thread seconds spent in system calls and kernels, over all workers.

    python -m benchmarks.profile RECIPE OUT

The parts of the engine are wrapped with clocks; the sum of a phase over two workers can exceed the wall time.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

from merge_assets import api  # noqa: E402
from merge_assets.engine import execute, native  # noqa: E402
from merge_assets.engine.files import InputFiles, OutputFile  # noqa: E402
from merge_assets.engine.native import formulas, statistics  # noqa: E402

_seconds: dict[str, float] = defaultdict(float)
_lock = threading.Lock()


def clocked(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose time is added to a phase."""

    def run(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            with _lock:
                _seconds[phase] += time.perf_counter() - began

    return run


def main(recipe: str, out: Path) -> None:
    """Merge once and print the phases."""
    imported = time.perf_counter()

    def call(name: str, *arguments: object) -> int:
        return int(clocked(f"kernel {name}", native.call)(name, *arguments))

    for module in (formulas, statistics):
        module.call = call
    InputFiles.read_into = clocked("read (pread)", InputFiles.read_into)  # type: ignore[method-assign]
    OutputFile.write = clocked("write (pwrite)", OutputFile.write)  # type: ignore[method-assign]
    OutputFile.copy_from = clocked("copy (copy_file_range)", OutputFile.copy_from)  # type: ignore[method-assign]
    OutputFile.finish = clocked("wait for the disk (fsync)", OutputFile.finish)  # type: ignore[method-assign]
    OutputFile.start_writing_back = clocked(  # type: ignore[method-assign]
        "start write-back (sync_file_range)", OutputFile.start_writing_back
    )
    execute.execute = clocked("= the engine, wall", execute.execute)
    shutil.rmtree(out, ignore_errors=True)
    api.merge(api.Workspace.open(), api.load_recipe(recipe), out, device="cpu")
    total = time.perf_counter() - STARTED
    shutil.rmtree(out)
    _seconds["= imports, wall"] = imported - STARTED
    _seconds["= everything, wall"] = total
    for phase, seconds in sorted(_seconds.items()):
        print(f"{phase:36} {seconds:7.2f} s")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
