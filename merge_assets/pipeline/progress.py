"""How far long work is, in words, and how long it will take from what it did lately."""

from collections import deque
from dataclasses import dataclass

from merge_assets.plan.describe import human_bytes

BYTES = "bytes"
TASKS = "tasks"
PASSES = "passes"
TRIALS = "trials"
"""Units of work; of tasks, thousandths are counted; a pass is that of a piece of a text through a layer."""

WINDOW_SECONDS = 60.0
"""What happened before tells nothing of the rate: what an earlier attempt finished is done at once."""


@dataclass(frozen=True)
class HowFar:
    """How far work is.

    Attributes:
        percent: of the whole, 0 to 100.
        done: how much of how much, such as ``1.5 GiB of 4.0 GiB``.
        gib_per_s: bytes per second lately, in GiB; ``None`` for what is not counted in bytes.
        left: about how many seconds are left; ``None`` where that cannot be told.
        doing: what is being done.
    """

    percent: float
    done: str
    gib_per_s: float | None
    left: float | None
    doing: str

    @property
    def words(self) -> str:
        """All of it but what is being done, in one line."""
        rate = None if self.gib_per_s is None else f"{human_bytes(self.gib_per_s * 2**30)}/s"
        left = None if self.left is None else f"{about(self.left)} left"
        return ", ".join(part for part in (f"{self.percent:.0f} %", self.done, rate, left) if part)


class Pace:
    """Follows one work from report to report.

    Args:
        unit: what it counts: :data:`BYTES`, :data:`TASKS`, :data:`PASSES` or :data:`TRIALS`.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.seen: deque[tuple[float, int]] = deque()

    def at(self, seconds: float, done: int, total: int, doing: str) -> HowFar:
        """How far it is ``seconds`` after its begin, when it has done ``done`` of ``total``."""
        self.seen.append((seconds, done))
        while len(self.seen) > 2 and seconds - self.seen[1][0] >= WINDOW_SECONDS:
            self.seen.popleft()
        begin, before = self.seen[0] if len(self.seen) > 1 else (0.0, 0)
        rate = (done - before) / (seconds - begin) if seconds > begin else 0.0
        return HowFar(
            percent=round(100 * done / total, 2) if total else 0.0,
            done=_amount(done, total, self.unit),
            gib_per_s=rate / 2**30 if self.unit == BYTES else None,
            left=(total - done) / rate if rate > 0 and total > done else None,
            doing=doing,
        )


def about(seconds: float) -> str:
    """A span of time as people say it: ``about 40 s``, ``about 3 min``, ``about 2 h 10 min``."""
    if seconds < 55:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min"
    hours, rest = divmod(10 * round(minutes / 10), 60)
    return f"about {hours} h {rest} min" if rest else f"about {hours} h"


def _amount(done: int, total: int, unit: str) -> str:
    if unit == BYTES:
        return f"{human_bytes(done)} of {human_bytes(total)}"
    if unit in (PASSES, TRIALS):
        return f"{done} of {total} {unit}"
    return f"{done / 1000:.1f} of {total / 1000:.0f} {unit}"
