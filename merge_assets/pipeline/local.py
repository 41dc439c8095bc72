"""Steps as processes of this machine. Dagster's own executor, but for what it does when one is killed."""

import signal
import sys
from typing import Any

from dagster._core.definitions.metadata import normalize_metadata
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.objects import StepFailureData, StepRetryData, UserFailureData
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._core.executor.multiprocess import MultiprocessExecutor
from dagster_shared.error import SerializableErrorInfo

from merge_assets.errors import StepKilledError
from merge_assets.pipeline.retries import retries_after
from merge_assets.pipeline.work import error_metadata


class LocalExecutor(MultiprocessExecutor):
    """Dagster leaves a step that was killed to the retry policy of its op, which would also try again what is wrong for good,
    and what was cancelled."""

    def log_failure_or_retry_event_after_error(
        self, step_context: Any, err_info: SerializableErrorInfo, known_state: Any
    ) -> DagsterEvent:
        crash = sys.exception()
        if not isinstance(crash, ChildProcessCrashException):
            return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)
        error = StepKilledError(_how(crash.exit_code))
        attempts = known_state.get_retry_state().get_attempt_count(step_context.step.key)
        told = SerializableErrorInfo(str(error), [], type(crash).__name__)
        retries = retries_after(error)
        if retries is not None and attempts < retries.times:
            again = StepRetryData(told, retries.pause(attempts + 1))  # type: ignore[no-untyped-call]
            return DagsterEvent.step_retry_event(step_context, again)
        twice = f"{error}; this was attempt {attempts + 1}, and it is not tried again" if attempts else str(error)
        shown = UserFailureData(  # type: ignore[no-untyped-call]
            "killed", description=twice, metadata=normalize_metadata(error_metadata(error))
        )
        return DagsterEvent.step_failure_event(
            step_context,
            StepFailureData(told, user_failure_data=shown),  # type: ignore[no-untyped-call]
        )


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with code {code} without saying why"
    name = signal.Signals(-code).name
    text = f"its process was terminated by signal {-code} ({name})"
    return f"{text}; if nobody killed it, memory ran out" if name == "SIGKILL" else text
