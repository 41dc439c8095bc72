"""Builds into a store, killed at their n-th step; what the next build in a new process makes of what they left.

A step is an audited call of the file system and, for a bucket, besides each time that a socket connects, sends or receives.
Processes are forked from one that has imported everything, so that one costs little more than its build.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import numpy as np

from merge_assets import api
from merge_assets.settings import Settings
from merge_assets.store import cutting
from merge_assets.store.draft import Draft
from merge_assets.store.names import BUILDS, LEASES
from merge_assets.store.place import Place
from merge_assets.store.place.workbench import DRAFTS
from tests.checkpoint_support import raw_file

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "merge_assets.engine.execute",
        "merge_assets.variant.surroundings",
        "merge_assets.methods.expression",
        "merge_assets.store.sending",
        "s3fs",
        "jinja2",
        "merge_assets.variant.card",
        "tests.faults.build_steps",
        "tests.faults.merge_steps",
        "tests.s3.builds",
    ]
)

LINE = "variants/mean"
RECIPES = {
    "mean": "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]\n",
    # Of this one `mean` differs in the last layer alone.
    "base": "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: "
    "{weight: [{filter: layers.1., value: 5}, {value: 3}]}}]\n",
}
# Every process would read the description of S3 anew, which takes longer than a build.
_LOADER = botocore.loaders.create_loader()
vars(botocore.session)["create_loader"] = lambda *_: _LOADER
botocore.session.Session().create_client("s3", "us-east-1", aws_access_key_id="-", aws_secret_access_key="-")
tempfile.gettempdir()

_LOOKS = ("open", "os.listdir", "os.scandir")
"""Events of which only those below the project count; the interpreter has some of its own."""
_WRITES_MANIFEST = re.compile(r"open .*/content/manifest.json', 'w'|PUT .*/manifest.json ")
_numbers = itertools.count(1)
_starting = threading.Lock()
_CALLS = ("os.", "shutil.", "fcntl.")


@dataclass(frozen=True)
class Scenario:
    """A build to be killed.

    Attributes:
        root: the project; see :func:`write_project`.
        bucket: where to build; empty for a local folder.
        options: of the store in the bucket.
        reuses: whether a variant is there that has most of the tensors.
        first: step at which an earlier attempt was killed; 0 if there was none.
        number: each build to be killed has a store of its own.
    """

    root: Path
    bucket: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    reuses: bool = False
    first: int = 0
    number: int = 0

    @property
    def folder(self) -> Path:
        """Whatever of it lies on the local disk."""
        return self.root / f"try-{self.number}"

    @property
    def store(self) -> str:
        """Its URL."""
        return f"s3://{self.bucket}/try-{self.number}" if self.bucket else str(self.folder / "store")

    @property
    def drafts(self) -> Path:
        """The folder of drafts, which lie on the local disk in any case."""
        return self.folder / ("cache" if self.bucket else "store") / DRAFTS

    def workspace(self) -> api.Workspace:
        # Loading transformers would take nearly all of the time.
        vars(sys.modules["merge_assets.api.build"])["check_variant"] = lambda *_, **__: []
        cutting.SENT = cutting.SMALLEST  # so that a small shard has several parts
        return api.Workspace.open(
            Settings(
                root=self.root,
                store=self.store,
                store_options=dict(self.options),
                cache_dir=self.folder / "cache",
                shard_size=12_000_000,
                device="cpu",
                threads=1,
            )
        )


@dataclass(frozen=True)
class Life:
    """How a build went.

    Attributes:
        steps: what it did, one after the other, as far as it lived.
        commit: how many of them came before it had everything and began to publish.
        version: what it made, empty if it was killed.
    """

    steps: list[str]
    commit: int
    version: str

    @property
    def killed(self) -> bool:
        return not self.version

    @property
    def publishing(self) -> range:
        """The steps from the first that writes the manifest to the last that writes which version is current."""
        written = [n for n, step in enumerate(self.steps, 1) if _WRITES_MANIFEST.match(step)]
        pointed = [n for n, step in enumerate(self.steps, 1) if "/current.json" in step]
        return range(written[0], pointed[-1] + 1)

    def sample(self, every: int) -> list[int]:
        """One step of so many, and all of :attr:`publishing`."""
        return sorted({*range(1, len(self.steps) + 1, every), *self.publishing})


@dataclass(frozen=True)
class Outcome:
    """A build that was killed.

    Attributes:
        step: at which.
        what: it was about to do.
        problems: of the next build.
    """

    step: int
    what: str
    problems: list[str]


class Steps:
    """Counts the steps of this process, writes them down, and kills it at one of them."""

    def __init__(self, place: Path, last: int, log: Path, *, sockets: bool = False) -> None:
        self._place = str(place)
        self._last = last
        self._count = itertools.count(1)  # threads that count at once must not miss one
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self._last_on: dict[int, str] = {}
        if sockets:
            for name in ("send", "recv"):
                self._watch(name)
        sys.addaudithook(self._audit)

    def note(self, text: str) -> None:
        os.write(self._log, f"{text}\n".encode())

    def step(self, text: str) -> None:
        self.note(text)
        if next(self._count) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.connect" or event.startswith(_LOOKS):
            told = str(arguments)
            if event == "socket.connect" or self._place in told:
                self.step(f"{event} {told}")
        elif event.startswith(_CALLS) and event != "os.kill":
            self.step(f"{event} {arguments}")

    def _watch(self, name: str) -> None:
        call = getattr(socket.socket, name)

        def counted(connection: socket.socket, data: Any, *more: Any) -> Any:
            if connection.family == socket.AF_INET:
                said = re.match(rb"(GET|HEAD|PUT|POST|DELETE) /\S+ HTTP", data) if name == "send" else None
                what = said[0].decode() if said else f"more by socket.{name}"
                # What is sent and received in pieces is two steps: before the first, and in the middle.
                if said or self._last_on.get(connection.fileno()) != what:
                    self.step(what)
                self._last_on[connection.fileno()] = what
            return call(connection, data, *more)

        setattr(socket.socket, name, counted)


def _build(scenario: Scenario, recipe: str, last: int, log: Path) -> None:
    """The body of a process that builds."""
    steps = Steps(scenario.root, last, log, sockets=bool(scenario.bucket))
    commit = Draft.commit

    def noted(*arguments: Any, **more: Any) -> Any:
        steps.note("commit")
        return commit(*arguments, **more)

    Draft.commit = noted  # type: ignore[method-assign]
    space = scenario.workspace()
    built = api.build(space, space.recipe(recipe))
    steps.note(f"version {built.artifact.version}")


def _next(scenario: Scenario, out: Path) -> None:
    """The body of the next process: what it sees, what it builds, and what is left when it has."""
    found: dict[str, Any] = {"problems": [], "version": ""}
    space = scenario.workspace()
    store = space.store
    for artifact in store.versions(LINE):
        found["problems"] += [f"a reader sees: {problem}" for problem in store.verify(artifact)]
    try:
        built = api.build(space, space.recipe("mean"))
        found["version"] = built.artifact.version
        found["problems"] += store.verify(built.artifact)
        if not store.current(LINE) == built.artifact == store.find(LINE, built.artifact.manifest.key):
            found["problems"].append("it is not the current version")
        found["problems"] += [f"left: {one}" for one in _left(scenario, store.place, built.artifact)]
    except Exception as error:
        found["problems"].append(f"the next build fails: {type(error).__name__}: {error}")
    out.write_text(json.dumps(found))


def _left(scenario: Scenario, place: Place, artifact: Any) -> Iterator[str]:
    """What is in the store, and in the scratch folder of one in a bucket, and is of no version.

    The lease of who died after it had published may stay: nobody waits for it, and housekeeping takes it.
    """
    for path in scenario.drafts.rglob("*"):
        if path.name != ".lock":
            yield f"{DRAFTS}/{path.relative_to(scenario.drafts)}"
    names = {
        f"{LINE}/current.json",
        f"{LINE}/keys/{artifact.manifest.key}.json",
        f"{LINE}/{artifact.version}/manifest.json",
    }
    base = artifact.url.removeprefix(f"{place.url('')}/")
    names |= {f"{base}/{name}" for name in artifact.manifest.files}
    for entry in place.listed(LINE):
        if entry.path not in names and not entry.path.startswith(f"{LINE}/{LEASES}/"):
            yield entry.path.replace(base, f"{LINE}/{BUILDS}/ours")
    if place.parts is not None:
        for upload in place.parts.uploads(""):
            yield f"the upload of {upload.path.rpartition('/')[2]}"


def in_a_process(body: Callable[..., None], *arguments: object) -> int:
    """Run a function of a module in a new process; returns its exit code, negative for the signal that killed it."""
    process = CONTEXT.Process(target=body, args=arguments)
    with _starting:  # whoever starts a process looks after those of all threads
        process.start()
    wait([process.sentinel])
    with _starting:
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def run(scenario: Scenario, recipe: str, log: Path, last: int = 0) -> Life:
    """Build a recipe in a new process, which is killed at its step ``last``, if it has so many.

    Args:
        scenario: where.
        recipe: what.
        log: file for the steps.
        last: 0 kills nobody.
    """
    code = in_a_process(_build, scenario, recipe, last, log)
    assert code in (0, -signal.SIGKILL), code
    steps = log.read_text().splitlines()
    version = next((line.partition(" ")[2] for line in steps if line.startswith("version ")), "")
    assert bool(version) == (code == 0)
    commit = steps.index("commit") if "commit" in steps else len(steps)
    return Life([line for line in steps if line.partition(" ")[0] not in ("commit", "version")], commit, version)


class Builds:
    """Builds of one scenario, each with a store of its own.

    Args:
        scenario: what to build.
        folder: of these builds alone.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        folder.mkdir()
        self._log = folder / "steps"
        self._out = folder / "next"
        self._here = scenario
        self.whole = self.kill(0)
        """A build that nobody kills."""
        assert not self.whole.killed

    def kill(self, step: int) -> Life:
        """Kill a build at this step of it, or let it finish if it has not so many."""
        shutil.rmtree(self._here.folder, ignore_errors=True)
        self._here = replace(self._scenario, number=next(_numbers))
        if self._here.reuses:
            run(self._here, "base", self._log)
        if self._here.first:
            assert run(self._here, "mean", self._log, self._here.first).killed
        return run(self._here, "mean", self._log, step)

    def problems(self) -> list[str]:
        """What is wrong with the next build after :meth:`kill`."""
        self._out.unlink(missing_ok=True)
        if code := in_a_process(_next, self._here, self._out):
            return [f"the next build ends with {code}"]
        found = json.loads(self._out.read_text())
        if found["version"] not in ("", self.whole.version):
            found["problems"].append("other bytes")
        return list(found["problems"])


def write_project(root: Path) -> Path:
    """Two models of 11 MB in two shards each, which no transformers knows, and :data:`RECIPES`."""
    shapes = {f"model.layers.{layer}.mlp.weight": (1340, 1024) for layer in range(4)}
    config = {"architectures": ["X"], "model_type": "unheard-of", "num_hidden_layers": 4}
    for seed, name in enumerate(("a", "b")):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        random = np.random.default_rng(seed)
        header: dict[str, Any] = {}
        data = b""
        for tensor, shape in {**shapes, "model.norm.weight": (1024,)}.items():
            values = (random.standard_normal(shape, dtype=np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
            data += values
        (folder / "model.safetensors").write_bytes(raw_file(header, data))
    (root / "recipes").mkdir()
    for name, text in RECIPES.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)
    return root


def outcomes(scenario: Scenario, folder: Path, steps: Iterable[int], workers: int = 1) -> Iterator[Outcome]:
    """Kill a build at each of these steps of it, as far as it has them."""
    local = threading.local()
    folders = (folder / str(number) for number in range(workers))

    def look(step: int) -> Outcome | None:
        if not hasattr(local, "builds"):
            local.builds = Builds(scenario, next(folders))
        life = local.builds.kill(step)
        return Outcome(step, life.steps[-1], local.builds.problems()) if life.killed else None

    with ThreadPoolExecutor(workers) as pool:
        yield from filter(None, pool.map(look, steps))
