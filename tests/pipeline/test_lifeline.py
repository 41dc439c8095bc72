"""Contract of processes that are killed: whichever it is, nothing of what it had going lives on, and drafts are cleared.

`merge-assets ui` with its real web server, daemon and code server; of a run, only what its step does is made up: it goes on for
ever, and clears up when it is stopped.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.families import command_of, kill, lives
from tests.pipeline.test_front_serve import ask, running, wait
from tests.synthetic import write_llama

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(3000)]

ENDLESS = """\
import os, time
from pathlib import Path
from merge_assets import api

HERE = Path(__file__).parent

def endless(workspace, recipe, *, work, **_):
    (HERE / f"at-work-{os.getpid()}").touch()
    try:
        while True:
            work.check()
            time.sleep(0.01)
    finally:
        (HERE / f"cleared-{os.getpid()}").touch()

api.build = endless
"""
LAUNCH = """\
mutation { launchRun(executionParams: {
  selector: {repositoryLocationName: "definitions", repositoryName: "__repository__", jobName: "build"} mode: "default"
}) { __typename ... on PythonError { message } } }
"""


class Site:
    """The command with a run at work."""

    def __init__(self, root: Path, command: subprocess.Popen[bytes], address: str) -> None:
        self.root, self.command, self.address = root, command, address
        self.seen: dict[int, psutil.Process] = {}

    def wait(self, done: Callable[[], bool]) -> None:
        wait(done, self.root)

    def launch(self) -> None:
        """Start a run, and wait until its step is at work."""
        answer = ask(self.address, " ".join(LAUNCH.split()))
        assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer
        self.at_work()

    def at_work(self) -> psutil.Process:
        """The step process that is at work; waits for one."""
        self.wait(lambda: bool(self._steps()))
        self.look()
        return self._steps()[0]

    def _steps(self) -> list[psutil.Process]:
        names = [path.name.rpartition("-")[2] for path in self.root.glob("at-work-*")]
        return [psutil.Process(int(pid)) for pid in names if not self.cleared(int(pid)) and psutil.pid_exists(int(pid))]

    def cleared(self, step: int) -> bool:
        return (self.root / f"cleared-{step}").exists()

    def look(self) -> list[psutil.Process]:
        """All processes that the command has started, now or earlier, and that are there."""
        with suppress(psutil.NoSuchProcess):  # it has ended
            for process in psutil.Process(self.command.pid).children(recursive=True):
                self.seen[process.pid] = process
        return [process for process in self.seen.values() if lives(process)]

    def named(self, *words: str) -> psutil.Process:
        """The one process with these words in its command, the uppermost of several."""
        return next(one for one in self.look() if all(word in " ".join(command_of(one)) for word in words))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    write_llama(tmp_path / "org" / "one", seed=1)
    with running(tmp_path, ENDLESS, "automate = []\n") as (command, address):
        made = Site(tmp_path, command, address)
        try:
            yield made
        finally:
            for process in made.look():
                kill(process)


def test_whichever_process_of_a_run_is_killed_its_step_stops_and_clears_up_and_no_process_is_left(site: Site) -> None:
    site.launch()
    step = site.at_work()
    forkserver = step.parent()
    assert forkserver is not None and "forkserver" in " ".join(forkserver.cmdline())
    worker = forkserver.parent()
    assert worker is not None and "multiprocessing" in " ".join(worker.cmdline())
    below = worker.children(recursive=True)
    worker.kill()
    site.wait(lambda: not any(map(lives, below)))
    assert site.cleared(step.pid)

    step = site.at_work()  # of the run that the daemon starts in the place of the one that crashed
    forkserver = step.parent()
    assert forkserver is not None
    forkserver.kill()
    site.wait(lambda: not lives(step))
    assert site.cleared(step.pid)

    site.launch()  # the one before has failed: its step says that it was stopped
    step = site.at_work()
    worker = (step.parent() or step).parent()
    assert worker is not None
    server = worker.parent()
    assert server is not None and "grpc" in server.cmdline()
    below = server.children(recursive=True)
    server.kill()
    site.wait(lambda: not any(map(lives, below)))
    assert site.cleared(step.pid)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.thorough)], ids=lambda number: number.name
)
def test_the_command_leaves_no_process_however_it_is_ended(site: Site, number: signal.Signals) -> None:
    site.launch()
    step = site.at_work()
    site.command.send_signal(number)
    site.wait(lambda: site.command.poll() is not None)
    site.wait(lambda: not any(map(lives, site.seen.values())))
    assert site.cleared(step.pid)
    assert site.command.returncode == (0 if number == signal.SIGTERM else -number)


@pytest.mark.parametrize(
    "who",
    [pytest.param(who, marks=pytest.mark.thorough) for who in ("the second process of the command", "the daemon")],
)
def test_a_command_whose_part_is_killed_ends_with_all_that_it_started(site: Site, who: str) -> None:
    site.launch()
    step = site.at_work()
    (second,) = psutil.Process(site.command.pid).children()
    (second if "second" in who else site.named("dagster._daemon")).kill()
    site.wait(lambda: site.command.poll() is not None)
    site.wait(lambda: not any(map(lives, site.seen.values())))
    assert site.cleared(step.pid)
    assert site.command.returncode != 0
