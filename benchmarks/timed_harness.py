"""The verbs of the harness, which write down what the model takes to answer; for `benchmarks.search_overhead`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from merge_assets.evaluation.harness import begin, find, leave, load, prepare, rewrite, run, scratch, why_stored
from merge_assets.evaluation.watching import Watching

__all__ = ["begin", "find", "leave", "load", "prepare", "rewrite", "run", "scratch", "why_stored"]

TIMES = "SEARCH_OVERHEAD_TIMES"
"""The variable that names the file to which seconds are added, a line each."""

_usual: Callable[..., Sequence[Any]] = Watching._answer


def _answer(self: Watching, batch: str, size: int, ask: Callable[[], Sequence[Any]], *, counted: bool) -> Sequence[Any]:
    def timed() -> Sequence[Any]:
        began = time.perf_counter()
        try:
            return ask()
        finally:
            with Path(os.environ[TIMES]).open("a") as file:
                file.write(f"{time.perf_counter() - began}\n")

    return _usual(self, batch, size, timed, counted=counted)


Watching._answer = _answer  # type: ignore[method-assign]
