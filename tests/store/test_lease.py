"""Contract of leases: of all who want the same, one works and the others take what comes out, whoever dies or is paused.

With real processes, on a local folder and in a bucket of a real S3 server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from merge_assets.errors import Stopped
from merge_assets.sealed import seal, unseal
from merge_assets.store import ArtifactStore, Turn, lease
from merge_assets.store.collect import plan_collection
from merge_assets.store.inventory import survey
from merge_assets.store.lease import Holder, holder_of
from merge_assets.work import Work
from tests.s3.rgw import Rgw
from tests.store_support import LINE, commit, finish, made_from, spawn, write_files

KEY = "k1"
PATH = f"{LINE}/leases/{KEY}.json"
WORKER = """
import json, time
from pathlib import Path
from merge_assets.records import Details
from merge_assets.store import ArtifactStore, lease
from tests.store_support import LINE, write_files
where = json.loads(sys.argv[1])
name, folder = sys.argv[2], Path(where["folder"])
lease.EVERY, lease.LOOK, lease.EXPIRES = where["every"], 0.1, where["expires"]
store = ArtifactStore(where["root"], where["options"], scratch=folder / f"scratch-{name}")

def find():
    return store.find(LINE, "k1")

def make(turn):
    (folder / f"at-work-{name}").touch()
    while not (folder / "go").exists():
        turn.work.check()
        time.sleep(0.01)
    with store.draft(LINE, turn=turn) as draft:
        write_files(draft.directory, {"who": name.encode()})
        made = draft.commit(f"by-{name}", key="k1", inputs=[], details=Details())
    (folder / f"published-{name}").touch()
    return made

(folder / f"ready-{name}").touch()
made, ours = store.once(LINE, "k1", find, make, task="making k1")
print(json.dumps([made.version, ours]))
"""


@dataclass
class Scene:
    """A store, and processes that want the same version of it, which they would call by their own names."""

    root: str
    options: Mapping[str, Any]
    folder: Path
    every: float = 0.2
    expires: float = 10_000.0

    def __post_init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root, self.options, scratch=self.folder / "scratch")

    def start(self, *names: str) -> None:
        where = {"root": self.root, "options": self.options, "folder": str(self.folder)}
        said = json.dumps({**where, "every": self.every, "expires": self.expires})
        for name in names:
            self.processes[name] = spawn(WORKER, said, name)

    def wait(self, pattern: str, number: int = 1) -> list[str]:
        """Until so many processes have come to a point; their names."""
        while len(found := list(self.folder.glob(f"{pattern}-*"))) < number:
            for process in self.processes.values():
                assert process.poll() in (None, 0, -signal.SIGKILL), process.communicate()
            time.sleep(0.02)
        return [path.name.rpartition("-")[2] for path in found]

    def be_taken_over(self) -> None:
        """``a`` is paused at its work for longer than its lease lasts, and ``b`` works."""
        self.expires = 2.0
        self.start("a")
        self.wait("at-work")
        os.kill(self.processes["a"].pid, signal.SIGSTOP)
        self.start("b")
        self.wait("at-work", 2)

    def go(self) -> None:
        (self.folder / "go").touch()

    def said(self, name: str) -> list[Any]:
        return list(json.loads(finish(self.processes.pop(name))))

    def holder(self) -> Holder | None:
        return holder_of(self.store.place.read(PATH))


@pytest.fixture(params=["local", pytest.param("bucket", marks=pytest.mark.server)])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(str(tmp_path / "store"), {}, tmp_path)
    if request.param == "bucket":
        server: Rgw = request.getfixturevalue("rgw")
        made = Scene(f"s3://{request.getfixturevalue('bucket')}/deep", server.options(), tmp_path)
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_of_six_processes_one_works_and_the_others_take_what_it_made(scene: Scene) -> None:
    names = list("abcdef")
    scene.start(*names)
    scene.wait("ready", 6)
    (worker,) = scene.wait("at-work")
    scene.go()
    said = {name: scene.said(name) for name in names}
    assert said == {name: [f"by-{worker}", name == worker] for name in names}
    assert scene.wait("at-work") == [worker], "nobody else has begun"
    assert [one.version for one in scene.store.versions(LINE)] == [f"by-{worker}"]
    assert scene.store.place.listed(f"{LINE}/leases") == []


@pytest.mark.slow
def test_a_killed_worker_is_replaced_at_once_on_the_same_machine(scene: Scene) -> None:
    scene.start("a")
    scene.wait("at-work")
    scene.start("b")
    scene.wait("ready", 2)
    holder = scene.holder()
    assert holder is not None and holder.pid == scene.processes["a"].pid
    scene.processes["a"].kill()
    assert sorted(scene.wait("at-work", 2)) == ["a", "b"], "long before a lease expires"
    scene.go()
    assert scene.said("b") == ["by-b", True]


@pytest.mark.slow
def test_who_was_paused_until_another_took_over_publishes_nothing_and_takes_what_that_made(scene: Scene) -> None:
    scene.be_taken_over()
    scene.go()
    assert scene.said("b") == ["by-b", True]
    os.kill(scene.processes["a"].pid, signal.SIGCONT)
    assert scene.said("a") == ["by-b", False]
    assert scene.wait("published") == ["b"]
    assert [one.version for one in scene.store.versions(LINE)] == ["by-b"]


@pytest.mark.slow
def test_who_comes_back_while_its_successor_works_stops_and_waits(scene: Scene) -> None:
    scene.be_taken_over()
    os.kill(scene.processes["a"].pid, signal.SIGCONT)
    while (holder := scene.holder()) is None or holder.beat < 10:  # of b, which a leaves alone
        time.sleep(0.05)
    assert holder.pid == scene.processes["b"].pid
    scene.go()
    assert (scene.said("a"), scene.said("b")) == (["by-b", False], ["by-b", True])
    assert scene.wait("published") == ["b"]


# -- in one process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK", 0.05)
    monkeypatch.setattr(lease, "EVERY", 0.05)


def held_by(store: ArtifactStore, **changes: Any) -> bytes:
    """A lease of this process, but for some fields."""
    raw: list[bytes | None] = []

    def make(turn: Turn) -> str:
        raw.append(store.place.read(PATH))
        return "made"

    store.once(LINE, KEY, lambda: None, make, task="making k1")
    fields = unseal(raw[0])
    assert fields is not None
    data = seal(fields | changes)
    store.place.write({PATH: data})
    return data


def test_a_lease_of_another_machine_expires_when_it_has_not_changed_whatever_its_clock_says(
    store: ArtifactStore, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES", 0.5)
    told: list[str] = []
    work = Work(lambda done, total, label: told.append(label))
    held_by(store, kernel="another", host="far", pid=7, since="2199-01-01T00:00:00Z")
    began = time.monotonic()
    assert store.once(LINE, KEY, lambda: None, lambda turn: "made", task="making k1", work=work) == ("made", True)
    assert time.monotonic() - began >= 0.5
    assert set(told) == {"waits for far pid 7, since 00:00:00 UTC, making k1"}


def test_a_lease_that_is_written_again_does_not_expire(
    store: ArtifactStore, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES", 0.5)
    ended, stop = threading.Event(), threading.Event()
    held_by(store, kernel="another")

    def beat() -> None:
        for number in range(25):
            held = holder_of(store.place.read(PATH))
            assert held is not None and held.kernel == "another"
            store.place.write({PATH: seal(held.model_copy(update={"beat": number}).model_dump(mode="json"))})
            time.sleep(0.1)
        stop.set()
        ended.set()

    threading.Thread(target=beat).start()
    with pytest.raises(Stopped):
        store.once(LINE, KEY, lambda: None, lambda turn: "made", task="", work=Work(should_stop=stop.is_set))
    assert ended.is_set()


def test_a_damaged_lease_expires_as_well(store: ArtifactStore, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRES", 0.2)
    store.place.write({PATH: b"{"})
    assert store.once(LINE, KEY, lambda: None, lambda turn: 1, task="") == (1, True)


@pytest.mark.parametrize("what", [{"pid": 2**22 + 1}, {"started": "1"}], ids=["no-such-process", "pid-used-again"])
def test_a_dead_holder_of_this_machine_is_noticed_at_once(
    store: ArtifactStore, what: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK", 10_000.0)
    held_by(store, **what)
    assert store.once(LINE, KEY, lambda: None, lambda turn: 1, task="") == (1, True)


def test_who_waits_can_be_stopped(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK", 10_000.0)
    held = held_by(store, host="far", kernel="another")
    stop = threading.Event()
    work = Work(lambda done, total, label: stop.set(), stop.is_set)
    with pytest.raises(Stopped, match=r"^stopped while waiting for far pid \d+, since .*, making k1$"):
        store.once(LINE, KEY, lambda: None, lambda turn: 1, task="", work=work)
    assert store.place.read(PATH) == held


def test_what_is_there_is_not_waited_for(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK", 10_000.0)
    held_by(store)
    assert store.once(LINE, KEY, lambda: "there", lambda turn: "made", task="") == ("there", False)


@pytest.mark.parametrize("error", [ValueError("wrong"), Stopped("stopped"), KeyboardInterrupt()], ids=repr)
def test_after_an_error_the_next_one_works(store: ArtifactStore, error: BaseException) -> None:
    def fail(turn: Turn) -> int:
        raise error

    with pytest.raises(type(error)):
        store.once(LINE, KEY, lambda: None, fail, task="")
    assert store.place.read(PATH) is None
    assert store.once(LINE, KEY, lambda: None, lambda turn: 1, task="") == (1, True)


def test_whose_lease_is_gone_begins_again(store: ArtifactStore, quick: None) -> None:
    """It may have been taken over by somebody who has finished and removed it."""
    turns: list[Turn] = []

    def make(turn: Turn) -> int:
        turns.append(turn)
        if len(turns) == 1:
            store.place.remove([PATH])
            while True:
                turn.work.check()
                time.sleep(0.01)
        return len(turns)

    assert store.once(LINE, KEY, lambda: None, make, task="") == (2, True)
    assert store.place.read(PATH) is None


def test_nothing_is_committed_when_another_has_taken_over(store: ArtifactStore) -> None:
    """Between two signs of life, so that the work itself has not noticed."""

    def make(turn: Turn) -> None:
        with store.draft(LINE, turn=turn) as draft:
            write_files(draft.directory, {"a": b"1"})
            store.place.write({PATH: b"another's"})
            draft.commit("f1", key=KEY, inputs=made_from({}), details=commit(store, line="variants/x").manifest.common)

    looks = iter([None, None, "theirs"])
    assert store.once(LINE, KEY, lambda: next(looks), make, task="") == ("theirs", False)
    assert store.versions(LINE) == []
    assert store.place.read(PATH) == b"another's"


def test_who_works_is_listed_and_what_the_dead_left_is_collected(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store)

    def make(turn: Turn) -> int:
        ((line, holder),) = survey(store).leases
        assert (line, holder.pid, holder.task) == (LINE, os.getpid(), "making k1")
        assert survey(store).leftovers == []
        return 1

    store.once(LINE, KEY, lambda: None, make, task="making k1")
    held_by(store, kernel="another")
    old = time.time() - 2 * 3600
    os.utime(tmp_path / "store" / PATH, (old, old))
    found = survey(store)
    assert found.leases == []
    plan = plan_collection(found, keep=1, older_than=None, pinned={})
    assert [entry.path for entry in plan.files] == [PATH]
