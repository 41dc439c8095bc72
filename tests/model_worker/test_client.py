"""A model worker does what it is asked and no harm: no network, no terminal, no secrets, bounds that hold, no survivors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_assets.errors import ModelWorkerError, Stopped
from merge_assets.model_worker import Limit, Limits, ModelWorker
from merge_assets.model_worker.nursery import without_secrets
from merge_assets.work import UNATTENDED, Work
from tests.model_worker import verbs

pytestmark = pytest.mark.slow

VERBS = verbs.__name__


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    with ModelWorker(VERBS, Limits()) as started:
        yield started


def ask(worker: ModelWorker, verb: str, limit: Limit = "silence", work: Work = UNATTENDED, **arguments: Any) -> Any:
    return worker.ask(verb, arguments, limit=limit, work=work)


def is_gone(process: int) -> bool:
    """Whether a process ends within a minute; a zombie has ended."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_workers_are_forked_from_one_process_that_imported_the_verbs(worker: ModelWorker) -> None:
    one = ask(worker, "who")
    with ModelWorker(VERBS, Limits()) as second:
        other = ask(second, "who")
    assert one["imported by"] == other["imported by"] not in (os.getpid(), one["process"])
    assert one["process"] != other["process"]
    assert one["session"] == one["process"], "a session of its own"


def test_it_keeps_what_it_holds_from_one_request_to_the_next(worker: ModelWorker) -> None:
    assert ask(worker, "keep", value={"a": [1, None, "ü"]}) is None
    with pytest.raises(ModelWorkerError, match="ValueError: no such layer") as caught:
        ask(worker, "fail", own=False)
    assert (caught.value.answered, caught.value.raised, caught.value.may_pass) == (True, "", False)
    assert ask(worker, "keep", value=0) == {"a": [1, None, "ü"]}


def test_errors_of_ours_come_back_as_they_are(worker: ModelWorker) -> None:
    with pytest.raises(ModelWorkerError) as caught:
        ask(worker, "fail", own=True)
    assert (str(caught.value), caught.value.raised) == ("suite.yaml: tasks[0]: no", "EvaluationError")
    with pytest.raises(ModelWorkerError, match="SystemExit: 3"):
        ask(worker, "leave")


def test_what_it_tells_is_told_and_what_it_gives_is_given(worker: ModelWorker) -> None:
    told: list[tuple[int, int, str]] = []
    given: list[int] = []
    work = Work(lambda *report: told.append(report))
    assert worker.ask("tell", {"times": 3}, limit="silence", work=work, each=given.append) == "told"
    assert told == [(0, 3, "telling"), (1, 3, "telling"), (2, 3, "telling")]
    assert given == [0, 1, 2]


def test_it_reaches_no_network(worker: ModelWorker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        assert ask(worker, "connect", port=listener.getsockname()[1]) in ("PermissionError", "OSError")
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert ask(worker, "local_sockets") == "hello"


ONE_WALL = """
import socket, sys
from merge_assets.model_worker import confine
if not getattr(confine, sys.argv[1])():
    sys.exit("not had")
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("wall", ["_namespace", "_filter"])
def test_each_wall_stands_alone(wall: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", ONE_WALL, wall, port], capture_output=True, text=True, check=False)
    if "not had" in done.stderr:
        pytest.skip(f"{wall}: not to be had on this machine")
    assert done.stdout.strip() in ("PermissionError", "OSError"), done.stderr


NO_WALL = """
import os, sys
from merge_assets.model_worker import confine
confine._namespace = confine._filter = lambda: False
try:
    confine.confine(os.getppid(), offline=True, loopback=len(sys.argv) > 2, unconfined=sys.argv[1] == "allowed")
except confine.UnconfinedError as error:
    print(error)
else:
    print("went on")
"""


@pytest.mark.parametrize(("allowed", "says"), [("", "allow_unconfined = true"), ("allowed", "went on")])
def test_without_a_wall_it_goes_on_only_where_the_setting_says_so(allowed: str, says: str) -> None:
    for loopback in ([], ["loopback"]):
        command = [sys.executable, "-c", NO_WALL, allowed, *loopback]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert says in done.stdout


LOOPBACK = """
import os, socket, sys
from merge_assets.model_worker import confine
try:
    confine.confine(os.getppid(), offline=True, loopback=True, unconfined=False)
except confine.UnconfinedError:
    sys.exit("not had")
with socket.create_server(("127.0.0.1", 0)) as own, socket.create_connection(own.getsockname()):
    print("own", own.getsockname()[1])
for host, port in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 80)):
    try:
        socket.create_connection((host, port), timeout=5)
    except OSError as error:
        print(type(error).__name__)
"""


def test_a_network_of_its_own_leads_nowhere() -> None:
    """What listens on this machine is not there, nor is anything else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", LOOPBACK, port], capture_output=True, text=True, check=False)
    if "not had" in done.stderr:
        pytest.skip("no network namespace is to be had on this machine")
    own, *others = done.stdout.splitlines()
    assert own.startswith("own ") and others == ["ConnectionRefusedError", "OSError"], done.stderr


def test_it_has_nobody_to_ask(worker: ModelWorker) -> None:
    assert ask(worker, "terminal") == ["", "none"]


def test_it_knows_no_secrets_and_is_told_not_to_ask_the_hub(worker: ModelWorker) -> None:
    given = {
        "HF_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "MERGE_ASSETS_UI_TOKEN": "u",
        "HOME": "/home/a",
        "TOKENIZERS_PARALLELISM": "no",
    }
    kept = without_secrets(given)
    assert not {"t", "s", "u"} & set(kept.values())
    assert (kept["HOME"], kept["TOKENIZERS_PARALLELISM"]) == ("/home/a", "no")
    there = ask(worker, "environment")
    assert (there["HF_HUB_OFFLINE"], there["HF_DATASETS_OFFLINE"]) == ("1", "1")
    assert not [name for name in there if name.startswith(("MERGE_ASSETS_", "AWS_"))]


def test_it_works_where_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ModelWorker(VERBS, Limits()) as worker:
        assert ask(worker, "folder") == str(tmp_path)


def test_its_temporary_files_go_with_it_however_it_ends() -> None:
    with ModelWorker(VERBS, Limits(answer=0.3)) as worker:
        left = Path(ask(worker, "litter"))
        assert left.is_file()
        with pytest.raises(ModelWorkerError, match="was ended"):
            ask(worker, "spin", limit="answer")
        assert not left.parent.exists()
        other = Path(ask(worker, "litter"))
    assert other.parent not in (left.parent, Path(tempfile.gettempdir()))
    assert not other.parent.exists()


@pytest.mark.parametrize("limit", ["load", "answer", "silence"])
def test_a_call_that_never_returns_ends_at_its_limit(limit: Limit) -> None:
    says = rf"gave no answer for 0\.3 s \(the setting {limit}_seconds\), and was ended"
    with ModelWorker(VERBS, Limits(**{limit: 0.3})) as worker:
        first = worker.ask("who", {}, limit=None)["process"]
        with pytest.raises(ModelWorkerError, match=says) as caught:
            ask(worker, "spin", limit=limit)
        assert not caught.value.answered
        assert is_gone(first)
        assert worker.ask("who", {}, limit=None)["process"] != first, "the next request has a new one"


def test_memory_beyond_its_limit_ends_it() -> None:
    says = r"took more than 0\.21 GB of memory \(the setting model_memory\)"
    with ModelWorker(VERBS, Limits(memory=200 << 20)) as worker, pytest.raises(ModelWorkerError, match=says):
        ask(worker, "take", size=1 << 30)


def test_a_process_that_is_ended_by_a_signal_says_so(worker: ModelWorker) -> None:
    with pytest.raises(ModelWorkerError, match="was ended by SIGSEGV"):
        ask(worker, "die")


def test_it_writes_no_large_files(worker: ModelWorker, tmp_path: Path) -> None:
    with pytest.raises(ModelWorkerError, match="File too large"):
        ask(worker, "write", path=str(tmp_path / "file"), size=1 << 40)


def test_what_it_started_ends_with_it() -> None:
    with ModelWorker(VERBS, Limits()) as worker:
        started = ask(worker, "start")
        assert Path(f"/proc/{started}").exists()
    assert is_gone(started)


def test_a_stop_ends_it(worker: ModelWorker) -> None:
    process = ask(worker, "who")["process"]
    with pytest.raises(Stopped, match="stopped while"):
        worker.ask("spin", {}, limit=None, work=Work(should_stop=lambda: True), doing="asking")
    assert is_gone(process)


@pytest.mark.parametrize("how", ["deep", "words", "shape", "size"])
def test_what_is_no_answer_is_an_error(worker: ModelWorker, how: str) -> None:
    with pytest.raises(ModelWorkerError, match="answers with what"):
        ask(worker, "garble", how=how)


def test_it_ends_with_who_asked_however_they_end() -> None:
    code = f"""
    from merge_assets.model_worker import Limits, ModelWorker
    worker = ModelWorker({VERBS!r}, Limits())
    print(*worker.ask("who", {{}}, limit=None).values(), flush=True)
    worker.ask("spin", {{}}, limit=None)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    asking = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert asking.stdout is not None
    nursery, worker, guard, _ = map(int, asking.stdout.readline().split())
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    asking.stdout.close()
    assert is_gone(worker)
    assert is_gone(guard)
    assert is_gone(nursery)


def test_processes_that_are_forked_share_what_was_imported() -> None:
    code = f"""
    import os
    from merge_assets.model_worker import Limits, ModelWorker
    def importer():
        with ModelWorker({VERBS!r}, Limits()) as worker:
            return worker.ask("who", {{}}, limit=None)["imported by"]
    ours = importer()
    if os.fork() == 0:
        os._exit(40 + (importer() == ours))
    print(os.waitstatus_to_exitcode(os.wait()[1]), importer() == ours)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["41", "True"]


def test_a_module_that_cannot_be_imported_is_named() -> None:
    says = r"cannot be loaded here: .*merge_assets\.nowhere"
    with ModelWorker("merge_assets.nowhere", Limits()) as worker, pytest.raises(ModelWorkerError, match=says):
        ask(worker, "who")
    with ModelWorker(VERBS, Limits()) as worker:
        assert ask(worker, "who"), "the nursery lives on"
