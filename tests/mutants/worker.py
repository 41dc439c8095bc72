"""Runs tests on a changed file, in a copy of the repository: ``python -m tests.mutants.worker``, started there.

A request is a line of JSON, and so is the answer. Every request is done in a fork of this process, which has the heavy
packages loaded and nothing of ours: that saves seconds for each mutant.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

_LOADED = ("numpy", "pandas", "pyarrow", "torch", "tokenizers", "pydantic", "fsspec", "rich", "typer", "moto.server")
_OPTIONS = [
    "-x",
    "-q",
    "--tb=no",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-o",
    "timeout=0",
    "-W",
    "ignore",
    "-m",
    "not slow and not server and not thorough",
    # Pytest removes its own folders at the end, which a worker that is ended does not come to.
    "--basetemp=temporary",
]
_MEMORY = 16 << 30
"""Bytes that a mutant may allocate; some would go on for ever."""


_WAITS = 10
"""How many times as long by the clock a file may take: what waits for ever takes no CPU."""

_UNTIL = Path("until").resolve()
"""Holds the time by the clock at which the tests that run are ended."""


class _Plugin:
    """Chooses the tests of a file, times them, and says which one failed.

    Args:
        chosen: names of tests, or None for all.
        traced: the coverage that is told which test runs.
    """

    def __init__(self, chosen: set[str] | None, traced: coverage.Coverage | None = None) -> None:
        self.chosen = chosen
        self.traced = traced
        self.failed = ""
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_sessionstart(self) -> None:
        """A found case is enough, the smallest one is not looked for."""
        quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutants", hypothesis.settings(), phases=quick, derandomize=True, database=None
        )
        hypothesis.settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self.chosen is not None:
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self.chosen])
            items[:] = [item for item in items if item.nodeid in self.chosen]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """What fixtures run counts for the whole file, since other tests may share them."""
        if self.traced is not None:
            self.traced.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            if self.traced is not None:
                self.traced.switch_context(item.nodeid.partition("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (cannot be loaded)"


def check(tests: dict[str, list[str] | None], bounds: dict[str, int], traced: list[str]) -> dict[str, Any]:
    """Run tests, file by file, until one fails.

    Args:
        tests: names of tests by file; None for all of the file.
        bounds: seconds of CPU that each file may take; a process that takes more is ended.
        traced: files whose lines are followed; none to check a mutant.

    Returns:
        ``failed``: the test that failed, if any. ``seconds``: by test. ``lines``: by traced file and line, the tests that
        run it in their bodies, and the test files that run it in a fixture or while they are loaded.
    """
    follow = coverage.Coverage(
        data_file=None, include=[str(Path(file).resolve()) for file in traced], config_file=False
    )
    if traced:
        follow.start()
    seconds: dict[str, float] = {}
    failed = ""
    for file, names in tests.items():
        _bound(bounds[file])
        if traced:
            follow.switch_context(file)
        plugin = _Plugin(None if names is None else set(names), follow if traced else None)
        code = pytest.main([*_OPTIONS, file], plugins=[plugin])
        seconds |= plugin.seconds
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            failed = plugin.failed or f"{file} (pytest ended with {code})"
            break
    lines: dict[str, Any] = {}
    if traced:
        follow.stop()
        data = follow.get_data()
        lines = {file: data.contexts_by_lineno(str(Path(file).resolve())) for file in traced}
    return {"failed": failed, "seconds": seconds, "lines": lines}


def _bound(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds, resource.RLIM_INFINITY))
    told = _UNTIL.with_suffix(".new")
    told.write_text(str(time.monotonic() + _WAITS * seconds))
    told.replace(_UNTIL)


def _fork(request: dict[str, Any], answer: Path) -> None:
    """A child that answers into a file; it and all that it starts are gone at the end."""
    _UNTIL.write_text("inf")
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
            answer.write_text(json.dumps(check(**request)))
        finally:
            os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > float(_UNTIL.read_text()):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def main() -> None:
    warnings.simplefilter("ignore")
    for name in _LOADED:
        __import__(name)
    answer = Path("answer.json").resolve()
    for line in sys.stdin:
        answer.unlink(missing_ok=True)
        _fork(json.loads(line), answer)
        # A child that says nothing was ended: by the bound of its time, or because it could not go on at all.
        print(answer.read_text() if answer.exists() else json.dumps({"failed": "", "ended": True}), flush=True)


if __name__ == "__main__":
    main()
