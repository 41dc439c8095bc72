"""Contract of `merge-assets status`: what it says is what the reconciler decides; it changes nothing, and its code says whether
a person is needed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.events import AssetObservationData

from merge_assets.cli import status as command
from merge_assets.pipeline import status as reading
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reconciler.words import clock
from merge_assets.pipeline.status import Status, StatusLine, ago, status_of
from tests.commands import command_environment, run_command
from tests.pipeline_support import MEAN, SECOND, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore")


REPOSITORY = Path(__file__).parents[2]


def read(daemon: Daemon) -> Status:
    workspace = daemon.project.workspace(**daemon.settings)
    graph = build_graph(workspace)
    return status_of(daemon.instance, graph, reading.Reconciler(workspace, graph))


def lines(daemon: Daemon) -> dict[str, StatusLine]:
    return {line.key: line for line in read(daemon).lines}


def test_what_fails_what_waits_for_it_and_when_it_is_tried_again(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    fake.failing.add("mean")
    daemon = Daemon.begun(project)
    found = lines(daemon)
    failed = found["variants/mean"]
    assert (failed.state, failed.reason, failed.tries, failed.needs_person) == (
        "failed",
        "mean fails as asked",
        1,
        True,
    )
    assert failed.next_try is not None and 3500 < failed.next_try - time.time() < 3600
    assert found["variants/second"].state == "waiting"
    assert "variants/mean failed: mean fails as asked" in found["variants/second"].reason
    assert "leaderboard" not in found, "it is made of what there is"
    assert read(daemon).needs_person


def test_a_running_step_says_how_far_it_is(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    daemon = Daemon(project)
    daemon.observe()
    seen: list[dict[str, StatusLine]] = []

    def look(name: str) -> None:
        if name == "mean":
            (run,) = daemon.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            said = {"percent": 37.5, "progress": "38 %, 3 of 8", "now": "model.norm"}
            told = dg.AssetObservation(dg.AssetKey(["variants", "mean"]), metadata=said)
            event = dg.DagsterEvent(
                "ASSET_OBSERVATION",
                run.job_name,
                event_specific_data=AssetObservationData(told),
                step_key="variants__mean",
            )
            daemon.instance.report_dagster_event(event, run.run_id)
            seen.append(lines(daemon))

    fake.during = look
    daemon.tick()
    (found,) = seen
    running = found["variants/mean"]
    assert (running.state, running.trigger, running.percent) == ("running", "automation", 37.5)
    assert running.now == "38 %, 3 of 8: model.norm"
    assert running.since is not None and abs(running.since - time.time()) < 600
    assert found["scores/quick/mean"].state == "queued"


def test_a_project_where_nothing_ever_ran_says_so_changes_nothing_and_imports_no_torch(project: Project) -> None:
    project.recipe("mean", MEAN)
    (project.root / "merge-assets.toml").write_text('default_suites = ["quick"]\n')
    before = files(project.root)
    done = run_command("status", "--json", root=project.root)
    said = json.loads(done.stdout)
    assert done.code == 1 and said["needs_person"], "nothing would make what is to be made"
    assert said["automation"].startswith("the daemon does not run")
    assert {line["key"]: line["reason"] for line in said["assets"]}["variants/mean"] == (
        "base/checkpoints/one was never observed"
    )
    assert files(project.root) == before
    program = "import sys; from merge_assets.cli.app import app\ntry: app(['status'])\nexcept SystemExit: pass\n"
    looked = subprocess.run(
        [sys.executable, "-c", program + "assert not {'torch', 'transformers'} & sys.modules.keys()"],
        cwd=project.root,
        env={**command_environment(project.root), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stderr
    assert "1 up to date" not in looked.stdout and "0 up to date, 5 waiting; automation: the daemon" in looked.stdout


def files(root: Path) -> dict[str, str]:
    """All but the store's own format, which opening it writes."""
    found = (file for file in root.rglob("*") if file.is_file() and "store" not in file.relative_to(root).parts)
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (Status(0, (), 5, 0, (), "running"), 0, "5 up to date; automation: running"),
        (
            Status(0, (StatusLine("a", "waiting", "b is being made"),), 5, 0, (), "running"),
            0,
            "5 up to date, 1 waiting",
        ),
        (
            Status(0, (StatusLine("a", "waiting", "b"),), 0, 0, (), "the daemon does not run"),
            1,
            "a person is needed for 1",
        ),
        (
            Status(0, (StatusLine("a", "cancelled", "b"),), 0, 2, (), "the daemon does not run"),
            0,
            "2 out of date and built by hand",
        ),
        (
            Status(0, (StatusLine("a", "refused", "b", needs_person=True),), 0, 0, (), "running"),
            1,
            "a person is needed for 1: a",
        ),
    ],
)
def test_the_code_says_whether_a_person_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: Status, code: int, says: str
) -> None:
    monkeypatch.setattr(command, "location", SimpleNamespace(workspace=lambda: None, graph=lambda: None))
    monkeypatch.setattr(command, "read_status", lambda *_: status)
    assert command.show_status(as_json=False) == code
    assert says in capsys.readouterr().out
    assert command.show_status(as_json=True) == code
    assert json.loads(capsys.readouterr().out)["needs_person"] == bool(code)


def test_times_are_short() -> None:
    assert [ago(0.0, seconds) for seconds in (5.0, 90.0, 7200.0, 200000.0)] == ["5 s", "2 min", "2 h", "2 d"]
    assert ago(None) == "" and clock(None) == "never" and clock(0.0).startswith(("1970-01-01", "1969-12-31"))
