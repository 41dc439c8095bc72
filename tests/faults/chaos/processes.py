"""The processes of the project: those that are started here and again when they end, and whatever these start."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.postgres import free_port

MARK = "CHAOS_OF"
"""Variable of the environment by which a process is known as one of ours, whoever its parent is by now."""
RESTART_SECONDS = 2.0
"""After which a service that ended is started again, as an init system does it."""
Tell = Callable[[str, str], None]

_ROLES = (
    ("build", r"merge_assets build|merge-assets build"),
    ("ui", r"merge_assets ui|merge-assets ui"),
    ("daemon", r"dagster\._daemon|dagster-daemon"),
    ("code server", r"code-server start"),
    ("code", r"api grpc"),
    ("model worker", r"merge_assets\.model_worker"),
    ("tracker", r"resource_tracker|watch_orphans"),
    ("forkserver", r"multiprocessing\.forkserver"),
    ("worker", r"execute_run|multiprocessing\.spawn"),
)


@dataclass(frozen=True)
class Process:
    """A process as it was first seen.

    Attributes:
        pid: its number.
        parent: the number of its parent at that time.
        role: what it is: ``ui``, ``daemon``, ``code``, ``worker`` (of a run), ``forkserver``, ``step``, …
        born: clock ticks since boot; with the number it is unique.
        command: its command line.
    """

    pid: int
    parent: int
    role: str
    born: int
    command: str


class Census:
    """Who is there.

    Args:
        mark: value of :data:`MARK`.
    """

    def __init__(self, mark: str) -> None:
        self._wanted = f"{MARK}={mark}".encode()
        self._known: dict[tuple[int, int], Process | None] = {}
        self._latest: dict[int, int] = {}
        self.last_seen: dict[int, list[tuple[float, float]]] = {}

    def look(self) -> list[Process]:
        """All that live now, without zombies, by number."""
        found = []
        for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                state, parent, born = _stat(pid)
                if state in "ZX":
                    continue
                if (process := self._look_at(pid, parent, born)) is not None:
                    found.append(process)
        for process in found:
            self._note(process, time.time())
        return found

    def _note(self, process: Process, now: float) -> None:
        """A number is given to another process when its own has ended; each has its own span."""
        spans = self.last_seen.setdefault(process.pid, [])
        if spans and self._latest.get(process.pid) == process.born:
            spans[-1] = (spans[-1][0], now)
        else:
            spans.append((now, now))
        self._latest[process.pid] = process.born

    def _look_at(self, pid: int, parent: int, born: int) -> Process | None:
        key = pid, born
        known = self._known.get(key)
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        if key in self._known and (known is None or known.command == command):  # else it has become another program
            return known
        ours = self._wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        self._known[key] = Process(pid, parent, self._role(command, parent), born, command) if ours else None
        return self._known[key]

    def _role(self, command: str, parent: int) -> str:
        role = next((name for name, pattern in _ROLES if re.search(pattern, command)), "other")
        above = {known.role for known in self._known.values() if known and known.pid == parent}
        return "step" if role == "forkserver" and "forkserver" in above else role


def _stat(pid: int) -> tuple[str, int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


@dataclass
class Service:
    """A program that is started again when it ends."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    starts: int = 0


@dataclass
class Services:
    """What runs the project: ``merge-assets ui`` alone, or the three services of ``deploy/``.

    Attributes:
        root: the project's folder, in which also their logs lie.
        environment: theirs.
        apart: the services of ``deploy/``.
        tell: takes what is noticed, for the transcript.
    """

    root: Path
    environment: Mapping[str, str]
    apart: bool
    tell: Tell
    port: int = field(default_factory=free_port)
    services: list[Service] = field(default_factory=list)

    def __post_init__(self) -> None:
        python = [sys.executable, "-m"]
        if not self.apart:
            self.services = [Service("ui", [*python, "merge_assets", "ui", "--port", str(self.port)])]
            return
        code = free_port()
        (self.root / "workspace.yaml").write_text(
            f"load_from: [grpc_server: {{host: 127.0.0.1, port: {code}, location_name: merge_assets}}]\n"
        )
        where = ["--host", "127.0.0.1", "--port", str(code), "--module-name", "definitions"]
        ui = ["merge_assets", "ui", "--no-daemon", "--port", str(self.port), "--workspace", "workspace.yaml"]
        self.services = [
            Service("code", [*python, "dagster", "code-server", "start", *where]),
            Service("webserver", [*python, *ui]),
            Service("daemon", [*python, "dagster._daemon", "run", "--workspace", "workspace.yaml"]),
        ]

    def supervise(self) -> None:
        """Start what is not running and was not for :data:`RESTART_SECONDS`."""
        for service in self.services:
            if service.process is not None and (code := service.process.poll()) is not None:
                self.tell("ended", f"{service.name} with code {code}")
                service.process, service.due = None, time.monotonic() + RESTART_SECONDS
            if service.process is None and time.monotonic() >= service.due:
                service.starts += 1
                service.process = start(self.root, service.name, service.command, self.environment)
                self.tell("started", f"{service.name} as {service.process.pid}")

    def stop(self, patience: float) -> list[str]:
        """End all as an init system does, by SIGTERM; the names of those that did not end in time, which are killed."""
        running = [(service, service.process) for service in self.services if service.process is not None]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + patience
        stuck = []
        for service, process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                stuck.append(service.name)
                process.kill()
                process.wait()
        return stuck


def start(root: Path, name: str, command: Iterable[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process of the project, whose words go into a file of this name."""
    with (root / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            list(command),
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
