"""What `merge-assets build` shows while it goes on: each outcome as a line, and what runs now.

On a terminal the running steps stand below the lines and move. Elsewhere each has a line of its own, not more often than every
ten seconds, so that a log tells that something goes on and does not fill.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from merge_assets.errors import printable
from merge_assets.pipeline import outcome as words
from merge_assets.pipeline.outcome import Outcome

STYLES = {
    words.BUILT: "green",
    words.RESUMED: "green",
    words.OBSERVED: "green",
    words.REUSED: "cyan",
    words.CONFIRMED: "green",
    words.MEASURED: "green",
    words.WOULD: "cyan",
    words.UP_TO_DATE: "dim",
    words.FAILED: "bold red",
    words.SKIPPED: "yellow",
    words.WAITING: "yellow",
    words.RUNNING: "blue",
}

LINE_SECONDS = 10.0
"""Seconds between two lines of one step where there is no terminal."""


@dataclass
class _Step:
    """A step that runs.

    Attributes:
        began: when, on the clock of :func:`time.monotonic`.
        said: what it told last of how far it is.
        shown: when it had its last line.
    """

    began: float
    said: str
    shown: float


class BuildDisplay:
    """Shows a build from beginning to end; called with every outcome, as :data:`merge_assets.pipeline.run.Report`.

    Args:
        out: where to.
        line_seconds: see :data:`LINE_SECONDS`.
    """

    def __init__(self, out: Console, line_seconds: float = LINE_SECONDS) -> None:
        self._out = out
        self._line_seconds = line_seconds
        self._steps: dict[str, _Step] = {}
        self._known = self._total = 0
        self._lock = threading.Lock()
        self._done = threading.Event()
        moving = out.is_terminal and not out.is_dumb_terminal
        self._live = (
            Live(console=out, get_renderable=self._now, refresh_per_second=4, transient=True) if moving else None
        )
        self._ticker = threading.Thread(target=self._tick, name="display", daemon=True)

    def __enter__(self) -> BuildDisplay:
        if self._live is None:
            self._ticker.start()
        else:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._live is None:
            self._ticker.join()
        else:
            self._live.stop()

    def __call__(self, outcome: Outcome, known: int, total: int) -> None:
        with self._lock:
            self._known, self._total = known, total
            if outcome.state == words.RUNNING:
                began = time.monotonic() - outcome.seconds
                step = self._steps.setdefault(outcome.key, _Step(began, "", time.monotonic()))
                step.began, step.said = min(step.began, began), outcome.message
                return
            self._steps.pop(outcome.key, None)
            self._print(outcome)

    def _print(self, outcome: Outcome) -> None:
        seconds = f" {outcome.seconds:.1f} s" if outcome.seconds else ""
        message = f"  [dim]{escape(outcome.message)}[/]" if outcome.message else ""
        width = len(str(self._total))
        self._out.print(
            f"[{self._known:>{width}}/{self._total}] [{STYLES[outcome.state]}]{outcome.state:<21}[/] "
            f"{escape(outcome.key)}{seconds}{message}",
            soft_wrap=True,
            highlight=False,
        )

    def _tick(self) -> None:
        """Where nothing moves: a line for every step that has had none for a while."""
        while not self._done.wait(min(1.0, self._line_seconds / 2)):
            with self._lock:
                now = time.monotonic()
                for key, step in self._steps.items():
                    if now - step.shown >= self._line_seconds:
                        step.shown = now
                        self._print(Outcome(key, words.RUNNING, now - step.began, step.said))

    def _now(self) -> RenderableType:
        """The running steps, the longest first, and how much is done."""
        with self._lock:
            shown = Table.grid(padding=(0, 1), expand=True)
            shown.add_column(no_wrap=True, style=STYLES[words.RUNNING])
            shown.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
            shown.add_column(no_wrap=True, justify="right")
            shown.add_column(no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
            now = time.monotonic()
            for key, step in self._steps.items():
                said = escape(printable(step.said))
                shown.add_row(words.RUNNING, escape(printable(key)), _elapsed(now - step.began), said)
            later = self._total - self._known - len(self._steps)
            foot = Text(f"{self._known} of {self._total} done, {later} to come", no_wrap=True, overflow="ellipsis")
            return Group(shown, foot) if self._total else shown


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
