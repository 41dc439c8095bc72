"""Builders that die, race and leave drafts behind: readers see whole versions or none.

All of it with real processes. ``plain://`` is a file system made here: local files without exclusive
creation, so the code for object stores runs in processes that can be killed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from merge_assets.errors import StoreError
from merge_assets.store import ArtifactStore
from tests.store_support import FILES, LINE, commit, finish, spawn, write_files

pytestmark = pytest.mark.slow

PLAIN = """
import fsspec
from fsspec.implementations.local import LocalFileSystem
class Plain(LocalFileSystem):
    protocol = "plain"
    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)
    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value)
    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("plain://"))
fsspec.register_implementation("plain", Plain, clobber=True)
"""
exec(PLAIN)


def store_at(root: Path, kind: str) -> ArtifactStore:
    return ArtifactStore(f"plain://{root}" if kind == "plain" else str(root), scratch=root.parent / "scratch")


def drafts_of(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".drafts").iterdir() if path.name != ".lock"]


@pytest.mark.parametrize("kind", ["local", "plain"])
def test_eight_processes_build_one_version(tmp_path: Path, kind: str) -> None:
    code = PLAIN + (
        "import time\n"
        "from pathlib import Path\n"
        "from tests.store_support import commit, FILES\n"
        "from tests.store.test_crashes import store_at\n"
        "root, kind, number = Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "files = FILES | {'who': number.encode() * 100_000, 'again': number.encode() * 100_000}\n"
        "(root.parent / f'ready{number}').touch()\n"
        "while not (root.parent / 'go').exists(): time.sleep(0.001)\n"
        "print(commit(store_at(root, kind), files=files).manifest.files['who'].sha256)\n"
    )
    root = tmp_path / "store"
    processes = [spawn(code, root, kind, number) for number in range(8)]
    while len(list(tmp_path.glob("ready*"))) < 8:
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.01)
    (tmp_path / "go").touch()
    digests = [finish(process) for process in processes]

    store = store_at(root, kind)
    (artifact,) = store.versions(LINE)
    assert store.verify(artifact) == []
    assert artifact.read_bytes("who") == artifact.read_bytes("again")
    assert store.find(LINE, "k1") == store.current(LINE) == artifact
    if kind == "local":
        assert set(digests) == {artifact.manifest.files["who"].sha256}
        assert drafts_of(root) == []


@pytest.mark.parametrize("kind", ["local", "plain"])
def test_death_at_every_step(tmp_path: Path, kind: str) -> None:
    """A build is killed at its n-th call of the operating system, for every n until it survives.

    After each death, readers must find nothing or a whole version, and the next build must succeed and
    leave no draft behind.
    """
    code = PLAIN + (
        "import os, shutil, signal\n"
        "from pathlib import Path\n"
        "from tests.store_support import commit, LINE\n"
        "from tests.store.test_crashes import store_at, drafts_of\n"
        "root, kind = Path(sys.argv[1]), sys.argv[2]\n"
        "EVENTS = ('open', 'os.', 'shutil.', 'fcntl.')\n"
        "def die_at(step):\n"
        "    seen = 0\n"
        "    def hook(event, arguments):\n"
        "        nonlocal seen\n"
        "        if event.startswith(EVENTS) and str(root.parent) in repr(arguments) or event.startswith('fcntl'):\n"
        "            seen += 1\n"
        "            if seen == step: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    sys.addaudithook(hook)\n"
        "deaths = whole = 0\n"
        "while True:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        die_at(deaths + 1)\n"
        "        commit(store_at(root, kind))\n"
        "        os._exit(0)\n"
        "    _, status = os.waitpid(child, 0)\n"
        "    store = store_at(root, kind)\n"
        "    seen = store.versions(LINE)\n"
        "    assert all(store.verify(one) == [] for one in seen), deaths\n"
        "    whole += len(seen)\n"
        "    if os.WIFEXITED(status):\n"
        "        assert os.WEXITSTATUS(status) == 0 and len(seen) == 1\n"
        "        break\n"
        "    assert os.WTERMSIG(status) == signal.SIGKILL\n"
        "    deaths += 1\n"
        "    built = commit(store)\n"
        "    assert store.verify(built) == [] and store.find(LINE, 'k1') == store.current(LINE) == built, deaths\n"
        "    assert drafts_of(root if kind == 'local' else root.parent / 'scratch') == [], deaths\n"
        "    shutil.rmtree(root)\n"
        "print(deaths, whole)\n"
    )
    deaths, whole = map(int, finish(spawn(code, tmp_path / "store", kind)).split())
    assert deaths > 15, "the build is made of more steps than this"
    assert 1 < whole < deaths, "some deaths come before the version exists and some after"


def test_builders_killed_one_after_the_other_under_a_polling_reader(tmp_path: Path) -> None:
    """Each is killed at a step drawn by lot of the last of its versions; the reader looks at every one that it sees."""
    code = (
        "import itertools, os, signal\n"
        "from merge_assets.records import Details\n"
        "from merge_assets.store import ArtifactStore\n"
        "from tests.store_support import commit\n"
        "store, turn, last = ArtifactStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])\n"
        "steps = itertools.count(1)\n"
        "def hook(event, arguments):\n"
        "    if event.startswith(('open', 'os.', 'fcntl.')) and event != 'os.kill' and next(steps) == last:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "def build(number):\n"
        "    name, files = f'{turn}-{number}', {f'{i}.bin': b'x' * 90_000 for i in range(9)}\n"
        "    commit(store, name, key=name, files=files)\n"
        "build(1)\n"
        "sys.addaudithook(hook)\n"
        "build(2)\n"
        "print(next(steps) - 1)\n"
    )
    root = tmp_path / "store"
    store = ArtifactStore(str(root))
    steps = int(finish(spawn(code, root, "whole", 0)))
    over = threading.Event()
    problems: list[str] = []
    checked: set[str] = set()

    def look() -> None:
        for artifact in store.versions(LINE):
            if artifact.version not in checked:
                problems.extend(store.verify(artifact))
                checked.add(artifact.version)

    def poll() -> None:
        while not over.is_set():
            look()

    reader = threading.Thread(target=poll)
    reader.start()
    chance = random.Random(7)
    try:
        for turn in range(12):
            process = spawn(code, root, turn, chance.randint(1, steps))
            process.communicate()
            assert process.returncode == -signal.SIGKILL
    finally:
        over.set()
        reader.join()
    look()
    assert problems == []
    assert {"whole-1", "whole-2", *(f"{turn}-1" for turn in range(12))} <= checked
    commit(store)
    assert drafts_of(root) == []


HOLD_A_DRAFT = (
    "from merge_assets.records import Details\n"
    "from merge_assets.store import ArtifactStore\n"
    "from tests.store_support import FILES, LINE, write_files\n"
    "with ArtifactStore(sys.argv[1]).draft(LINE) as draft:\n"
    "    write_files(draft.directory, FILES)\n"
    "    print('ready', flush=True)\n"
    "    input()\n"
    "    print(draft.commit('f1', key='k1', inputs=[], details=Details()).version)\n"
)


def test_the_draft_of_a_dead_process_is_removed_by_the_next_builder(tmp_path: Path) -> None:
    process = spawn(HOLD_A_DRAFT, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(drafts_of(tmp_path)) == 1

    store = ArtifactStore(str(tmp_path))
    assert store.versions(LINE) == [] and store.lines("variants") == []
    with store.draft(LINE):
        assert len(drafts_of(tmp_path)) == 1
    assert drafts_of(tmp_path) == []


def test_the_draft_of_a_living_process_stays(tmp_path: Path) -> None:
    process = spawn(HOLD_A_DRAFT, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    store = ArtifactStore(str(tmp_path))
    with store.draft(LINE):
        assert len(drafts_of(tmp_path)) == 2
    out, err = process.communicate("\n", timeout=60)

    assert out == "f1\n", err
    assert store.verify(store.versions(LINE)[0]) == []


def test_the_draft_of_another_machine_stays_until_it_was_quiet_for_a_day(tmp_path: Path) -> None:
    foreign = tmp_path / ".drafts" / "00000000-1-abcdef01"
    write_files(foreign, {"lock": b"", "content/model.safetensors": b"half"})
    store = ArtifactStore(str(tmp_path))
    with store.draft(LINE):
        assert foreign.exists()

    two_days_ago = time.time() - 2 * 86_400
    for path in (*foreign.rglob("*"), foreign):
        os.utime(path, (two_days_ago, two_days_ago))
    with store.draft(LINE):
        assert not foreign.exists()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker forked by another thread at a bad moment inherits the descriptor and may live for hours."""
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from merge_assets.store.place.locks import exclusive\n"
        "signal.alarm(30)\n"
        "with exclusive(Path(sys.argv[1])) as locked:\n"
        "    assert locked\n"
        "    child = os.fork()\n"
        "    if child == 0: signal.alarm(60), signal.pause()\n"
        "with exclusive(Path(sys.argv[1])) as again:\n"
        "    print(again)\n"
        "os.kill(child, signal.SIGKILL)\n"
    )
    assert finish(spawn(code, tmp_path / "lock")) == "True"


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    store = ArtifactStore(str(tmp_path / "store"))
    assert store.get(LINE, "f1") is None
    with pytest.raises(StoreError, match="cannot be written"):
        commit(store, files=FILES)
