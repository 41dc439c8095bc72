"""Contract of steps as processes: one that is killed is tried again once, and what became of it is said in words.

Real processes, which end themselves as the kernel ends them when memory is out.
"""

import os
import signal
from pathlib import Path

import dagster as dg
import pytest

from merge_assets.pipeline import executor, retries
from merge_assets.pipeline.executor import choose_executor
from merge_assets.settings import Settings

MARK = "test/mark"
"""Tag of the run; the environment of a fork server is that of whoever started it first."""
KILLED = "its process was terminated by signal 9 (SIGKILL); if nobody killed it, memory ran out"


@dg.op
def always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dg.op
def once(context: dg.OpExecutionContext) -> None:
    mark = Path(context.run.tags[MARK])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dg.op
def defect() -> None:
    raise ZeroDivisionError


def killed() -> dg.JobDefinition:
    @dg.job(executor_def=choose_executor(Settings()))
    def killed() -> None:
        always()
        once()
        defect()

    return killed


@pytest.mark.slow
def test_a_killed_step_is_tried_again_once_and_a_defect_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "PRELOAD_MODULE", "dagster")
    monkeypatch.setattr(retries, "MEMORY", retries.Retries(retries.MEMORY.times, seconds=0.1))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = dg.execute_job(
            dg.reconstructable(killed),
            instance=instance,
            raise_on_error=False,
            tags={MARK: str(tmp_path / "mark")},
        )
        events = result.all_events
    assert not result.success
    retried = [(event.step_key, event.step_retry_data.error.message) for event in events if event.is_step_up_for_retry]
    assert sorted(retried) == [("always", KILLED), ("once", KILLED)]
    assert [event.step_key for event in events if event.is_step_success] == ["once"]
    failed = {event.step_key: event.step_failure_data.user_failure_data for event in events if event.is_step_failure}
    assert failed.keys() == {"always", "defect"} and failed["defect"] is None
    assert failed["always"].description == f"{KILLED}; this was attempt 2, and it is not tried again"
    assert failed["always"].metadata["error_kind"].value == "step.killed"
