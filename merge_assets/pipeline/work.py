"""Running long work inside an op: progress as a curve, and a stop within two seconds.

Dagster raises a cancellation in the main thread, between two bytecodes. The work therefore runs in a thread of its own
while the main thread waits; on a cancellation it sets a flag, which the engine polls between tiles, and waits for the
work to have cleaned up after itself.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import dagster as dg

from merge_assets.errors import MergeAssetsError, Stopped, printable
from merge_assets.extras import not_installed
from merge_assets.pipeline.progress import BYTES, Pace
from merge_assets.pipeline.retries import retries_after
from merge_assets.work import Work

T = TypeVar("T")

POLL_SECONDS = 0.1
EVENT_SECONDS = 5.0
STOP_SECONDS = 60.0


class _Latest:
    """The last progress report of the work; written by its threads, read by the waiting one.

    Attributes:
        value: what was reported.
        waiting: what was shown of it last, where it waits.
    """

    def __init__(self) -> None:
        self.value: tuple[int, int, str] | None = None
        self.waiting = ""

    def __call__(self, done: int, total: int, label: str) -> None:
        self.value = (done, total, label)


def run_work(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    do: Callable[[Work], T],
    *,
    unit: str = BYTES,
    every: float = EVENT_SECONDS,
    lines: deque[str] | None = None,
) -> T:
    """Run ``do`` in a thread and return its result.

    Args:
        context: of the op; receives one observation and one log line per ``every`` seconds.
        key: the asset that the work makes; the observations draw the curve ``percent`` on its page.
        do: gets the :class:`Work` that this run is; has to stop soon after it is asked to, leaving nothing half-written.
        unit: what it reports, of :mod:`merge_assets.pipeline.progress`.
        every: seconds between two reports.
        lines: what ``do`` puts here from any thread is logged in order, by this one.

    Raises:
        dagster.Failure: for an error caused by input or environment, with its message as the description.
        dagster.RetryRequested: the same, where trying again may help, as ``retries.py`` says.
    """
    begun, stop, finished = (threading.Event() for _ in range(3))
    latest = _Latest()
    result: list[T] = []
    told = deque[str]() if lines is None else lines
    error: list[BaseException] = []

    def target() -> None:
        begun.set()
        try:
            if not stop.is_set():
                result.append(do(Work(latest, stop.is_set)))
        except BaseException as problem:
            error.append(problem)
        finally:
            finished.set()

    thread = threading.Thread(target=target, name="work", daemon=True)
    started, pace = time.monotonic(), Pace(unit)
    try:
        thread.start()
        due = started + every
        while not finished.wait(POLL_SECONDS):
            _log(context, told)
            if time.monotonic() >= due:
                due = time.monotonic() + every
                _report(context, key, latest, time.monotonic() - started, pace)
        _log(context, told)
    except BaseException as problem:
        # A cancellation may come while the thread starts. One that has not begun yet will find that it need not.
        stop.set()
        if begun.is_set():
            finished.wait(STOP_SECONDS)
        if isinstance(problem, dg.DagsterExecutionInterruptedError):
            # Of the same class: by it Dagster knows that no other step may begin.
            raise dg.DagsterExecutionInterruptedError(_stopped(context)) from None
        raise
    if error:
        _raise(context, error[0])
    return result[0]


def _log(context: dg.AssetExecutionContext, lines: deque[str]) -> None:
    while lines:
        context.log.info(lines.popleft())


def _report(context: dg.AssetExecutionContext, key: dg.AssetKey, latest: _Latest, seconds: float, pace: Pace) -> None:
    if latest.value is None:
        return
    done, total, label = latest.value
    label = printable(label)
    if not total:  # it waits, and says once for whom
        if label and label != latest.waiting:
            context.log.info(label)
        latest.waiting = label
        return
    now = pace.at(seconds, done, total, label)
    metadata: dict[str, float | str] = {"progress": now.words, "percent": now.percent, "seconds": round(seconds, 1)}
    if now.doing:
        metadata["now"] = now.doing
    if now.gib_per_s is not None:
        metadata["gib_per_s"] = round(now.gib_per_s, 3)
    context.log.info(f"{now.words}: {now.doing}" if now.doing else now.words)
    context.log_event(dg.AssetObservation(asset_key=key, metadata=metadata))


def _stopped(context: dg.AssetExecutionContext) -> str:
    """That a step was stopped, by what, and what that costs."""
    run = context.instance.get_run_by_id(context.run_id)
    cancelled = run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
    by = "because its run was cancelled" if cancelled else "by a signal to its process, such as Ctrl-C"
    return f"stopped {by}; what was finished is kept, and the next run goes on with it"


def _raise(context: dg.AssetExecutionContext, error: BaseException) -> None:
    if isinstance(error, Stopped):
        raise dg.Failure(description="the work was stopped", allow_retries=False) from None
    known = error if isinstance(error, MergeAssetsError) else not_installed(error)
    if known is None:
        raise error
    retries, failed = retries_after(known), context.op_execution_context.retry_number
    if retries is not None and failed < retries.times:
        pause = retries.pause(failed + 1, known.wait)
        context.log.warning(f"{known}; this step is tried again in {pause:.0f} s")
        raise dg.RetryRequested(max_retries=retries.times, seconds_to_wait=pause) from known
    raise dg.Failure(description=str(known), metadata=error_metadata(known), allow_retries=False) from None


def error_metadata(error: MergeAssetsError) -> dict[str, str | float]:
    """What a failure says to programs: its kind, and when a server wants to be asked again."""
    return {"error_kind": error.kind, **({} if error.wait is None else {"retry_after": error.wait})}
