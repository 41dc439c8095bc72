"""Why runs failed: each failure in the words of the first error, and whether what was done to the project explains it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from tests.faults.chaos.project import BAD_NUMBERS

AFTER = 400.0
"""Seconds after a kill or an outage in which a failure may be of it: a run that died is noticed by a look at all of them."""

KILLED, OUTAGE, CHANGED, EXPECTED, SUBSET, UNEXPLAINED = (
    "a process was killed",
    "the bucket was away",
    "a file changed while it was read",
    "the recipe is wrong, and is named",
    "a recipe went, and the run failed as a whole",
    "unexplained",
)
_PATTERNS = (
    (
        SUBSET,
        r"DagsterInvalidSubsetError|DagsterCodeLocationNotFound|Could not find (?:job|pipeline)|"
        r"without success or failure event|DagsterInvalidDefinition|asset keys .* not exist",
    ),
    (
        EXPECTED,
        rf"{BAD_NUMBERS}|not a finite number|NaN or infinit|is no recipe|layer_range|r\d\d\.yaml|unlinaer|unknown method",
    ),
    (
        CHANGED,
        r"changed (?:while|since|meanwhile)|not as it was|not what it was when it was digested|differs from|has changed",
    ),
    (
        OUTAGE,
        r"s3://|bucket|endpoint|[Cc]onnection (?:refused|reset|closed)|Could not connect|Broken pipe|timed? ?out|Connect call",
    ),
    (
        KILLED,
        r"SIGKILL|SIGTERM|signal -?\d+|terminated by signal|exited with|ChildProcessCrash|Interrupted|was stopped|"
        r"run worker|marked as failed from outside|process (?:died|ended|was ended|of this run was killed)|"
        r"unexpected termination|EOFError|[Mm]odel worker|UNEXPECTED|longer than \d+ seconds to start",
    ),
)


@dataclass(frozen=True)
class Failure:
    """One failed run.

    Attributes:
        run_id: its id.
        began, ended: seconds since 1970; 0 where nothing is recorded.
        steps: of how many steps it tells a failure.
        causes: of its steps, and of itself if no step says any.
        words: the first error of each cause.
    """

    run_id: str
    began: float
    ended: float
    steps: int
    causes: frozenset[str]
    words: tuple[str, ...]

    @property
    def is_explained(self) -> bool:
        return not self.causes & {UNEXPLAINED, SUBSET}


def failures(
    instance: dg.DagsterInstance, kills: Sequence[tuple[float, str]], outages: Sequence[tuple[float, float]]
) -> list[Failure]:
    """All failed runs, oldest first."""
    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    return [_failure(instance, record, kills, outages) for record in reversed(records)]


def _failure(instance: dg.DagsterInstance, record: Any, kills: Any, outages: Any) -> Failure:
    run_id = record.dagster_run.run_id
    began = record.start_time or record.create_timestamp.timestamp()
    ended = record.end_time or began
    words: dict[str, str] = defaultdict(str)
    steps = 0
    for of_step, text in _said(instance, run_id):
        cause = _cause(text, began, ended, kills, outages)
        if of_step or not words:
            words[cause] = words[cause] or text
        steps += of_step
    if not words:
        words[UNEXPLAINED] = "nothing is recorded"
    return Failure(run_id, began, ended, steps, frozenset(words), tuple(f"{k}: {v[:300]}" for k, v in words.items()))


def _said(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[bool, str]]:
    """What each failure of a step says, then what that of the run says."""
    wanted = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    of_run = []
    for entry in instance.all_logs(run_id, of_type=wanted):
        event = entry.get_dagster_event()
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            user = data.user_failure_data.description if data.user_failure_data else None
            yield True, f"{entry.step_key}: {user or innermost(data.error) or event.message}"
        else:
            data = event.event_specific_data
            of_run.append(f"{event.message or ''} {innermost(getattr(data, 'error', None))}".strip())
    yield from ((False, text) for text in of_run)


def innermost(error: Any) -> str:
    """The message of the error that began it."""
    while error is not None and error.cause is not None:
        error = error.cause
    return "" if error is None else f"{error.cls_name}: {error.message}".strip()


def _cause(text: str, began: float, ended: float, kills: Any, outages: Any) -> str:
    killed = any(began - AFTER <= at <= ended + 5 for at, _ in kills)
    away = any(start <= ended + 5 and end >= began - 5 for start, end in outages)
    for cause, pattern in _PATTERNS:
        if not re.search(pattern, text):
            continue
        if (cause == KILLED and not killed) or (cause == OUTAGE and not away):
            continue
        return cause
    return UNEXPLAINED
