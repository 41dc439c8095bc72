"""Projects of a good recipe beside a hostile neighbour, and what a person and Dagster must still get of them.

A neighbour may be as bad as it likes: ``good`` is listed, planned and loaded, and the neighbour is shown as broken or costs
nothing. Run as a program, it looks at every neighbour as a user who may not read everything (``nobody`` where root runs it):
``python -m tests.hostile FOLDER``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import pwd
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from merge_assets.cli.console import console, err
from merge_assets.cli.show import show_plan, show_recipes
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.workspace import Workspace
from tests.fuzz.inputs import model_files, write_folder
from tests.hostile_neighbours import NEIGHBOURS
from tests.neighbours import SUITE, Neighbour

SECONDS = 30.0
"""CPU time that a look at one project may take; it takes half a second."""

WAIT = 300.0
"""After so many seconds it waits for something that never comes."""

MEMORY = 4 << 30
"""Address space of a process that looks."""

GOOD = """\
merge_method: linear
models:
  - {model: ./good-model, parameters: {weight: 1}}
  - {model: ./second-model, parameters: {weight: 1}}
evaluate: [sound]
"""


def make_project(root: Path) -> None:
    """A project with one good recipe of two local models, and a good suite."""
    for folder in ("recipes", "suites"):
        (root / folder).mkdir(parents=True)
    for name in ("good-model", "second-model"):
        write_folder(root / name, model_files())
    (root / "recipes" / "good.yaml").write_text(GOOD)
    (root / "suites" / "sound.yaml").write_text(SUITE)


@dataclass(frozen=True)
class Seen:
    """What is to be seen of a project.

    Attributes:
        listed: what `merge-assets recipes` prints on standard output.
        complained: what it prints on standard error.
        broken: what is broken, by the last part of its asset key, with its message.
        keys: asset keys, as Dagster spells them.
        changed: keys of the base checkpoints that the sensor's first tick records.
    """

    listed: str
    complained: str
    broken: dict[str, str]
    keys: frozenset[str]
    changed: frozenset[str]


def look(root: Path) -> Seen:
    """List, plan and load a project, as `recipes`, `plan good`, the code location and its first sensor tick do."""
    out, complaints = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    consoles = (console, err)
    for cached in consoles:
        cached.cache_clear()
    try:
        with bounded(), contextlib.chdir(root):
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
                show_recipes(as_json=False)
                show_plan("good", as_json=False, shard_size=None)
            workspace = Workspace.open()
            graph = build_graph(workspace)
            definitions = build_definitions(workspace, graph)
            snapshot = serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))
            snapshot.encode()
            sensor = definitions.get_sensor_def("local_checkpoints")
            tick = sensor(dg.build_sensor_context(instance=_instance()))
    finally:
        for cached in consoles:
            cached.cache_clear()
    return Seen(
        listed=_text(out),
        complained=_text(complaints),
        broken={node.name: node.message for node in graph.broken},
        keys=frozenset(spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs()),
        changed=frozenset(event.asset_key.to_user_string() for event in tick.asset_events),
    )


@functools.cache
def _instance() -> dg.DagsterInstance:
    """Where nothing is ever recorded; making one takes as long as a look."""
    return dg.DagsterInstance.ephemeral()


def check_good(seen: Seen) -> None:
    """The good recipe is as if it were alone."""
    assert "good" in seen.listed.split(), f"good is not listed: {seen.listed}"
    assert "Layer map" in seen.listed, f"good is not planned: {seen.listed}"
    base = next((key for key in seen.keys if key.startswith("base/good-model")), "")
    wanted = {"variants/good", "scores/sound/good", base, "base/second-model", "scores/sound/second-model"}
    assert wanted <= seen.keys, f"good is not loaded: {sorted(seen.keys)[:20]}"
    assert not seen.broken.keys() & {"good", "good-sound", "good-schedule", "suite-sound"}, (
        f"good is broken: {seen.broken}"
    )
    assert {base, "base/second-model"} <= seen.changed, f"the models of good are not observed: {seen.changed}"
    for name, message in seen.broken.items():
        check_words(name, message)


def check_words(name: str, message: str) -> None:
    """A broken thing has a name that can be shown and a message for people."""
    assert name.isprintable() and 0 < len(name) <= 130, repr(name)[:200]
    assert message.strip() and len(message) <= 8200, f"{len(message)} characters: {message[:200]}"
    assert "Traceback" not in message and "object at 0x" not in message, message[:500]
    assert all(letter.isprintable() or letter == "\n" for letter in message), repr(message)[:500]
    message.encode()


class TooLateError(BaseException):
    """Time ran out; nobody who reads hostile input may catch it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """End what computes or waits for ever."""

    def late(number: int, _: object) -> None:
        raise TooLateError(f"took more than {SECONDS} s of CPU" if number == signal.SIGPROF else f"waited {WAIT} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, WAIT))
    before = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


def main() -> int:
    """Look at neighbours without the rights of root, all or those named; prints what takes ``good`` down. 1 if any does."""
    warnings.simplefilter("ignore")
    logging.disable()
    base = Path(sys.argv[1])
    names = sys.argv[2:] or list(NEIGHBOURS)
    look_beside(base / "alone", lambda root: None)
    failed = False
    for number, name in enumerate(names):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os._exit(_look_as_nobody(base / str(number), name))
        failed |= os.waitpid(child, 0)[1] != 0
    return int(failed)


def look_beside(root: Path, neighbour: Neighbour) -> Seen:
    """Make a project with a neighbour and look at it; the good recipe must be as if it were alone."""
    make_project(root)
    neighbour(root)
    seen = look(root)
    check_good(seen)
    return seen


def _look_as_nobody(root: Path, name: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        make_project(root)
        NEIGHBOURS[name](root)
        (root / "var").mkdir()
        (root / "var").chmod(0o777)
        if os.getuid() == 0:
            become_nobody()
        seen = look(root)
        check_good(seen)
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}"[:1000])
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    if "HOSTILE_SHOW" in os.environ:
        said = list(seen.broken.items())
        print(
            f"{name}: "
            + ("; ".join(f"{key}: {text[:300]!r}" for key, text in said) if len(said) < 4 else f"{len(said)} broken")
        )
        sys.stdout.flush()
    return 0


def become_nobody() -> None:
    """Drop root's rights."""
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


if __name__ == "__main__":
    sys.exit(main())
