"""How long work tells how far it is, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from merge_assets.errors import Stopped

Report = Callable[[int, int, str], None]
"""Called with (done, total, label); done and total are bytes or items, as the docstring of the work says."""


def _tell_nobody(done: int, total: int, label: str) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Work:
    """What a caller gives to long work: whom it tells, and whom it asks. Both are called often, and from any thread.

    Attributes:
        report: what is told.
        should_stop: whether the work is to end; asked between tiles, blocks of a file, or several times a second.
    """

    report: Report = _tell_nobody
    should_stop: Callable[[], bool] = _never

    def check(self, doing: str = "") -> None:
        """Leave if the work is to end.

        Args:
            doing: what is being done, to follow the word "while".

        Raises:
            Stopped: on request.
        """
        if self.should_stop():
            raise Stopped(f"stopped while {doing}" if doing else "stopped")

    def reporting(self, report: Report) -> Work:
        """Work that ends with this one and is told to another: a step that counts in other units, or a part of the whole."""
        return replace(self, report=report)

    def silent(self) -> Work:
        """Work that ends with this one and tells nobody: a step that does not count."""
        return self.reporting(_tell_nobody)


UNATTENDED = Work()
"""Nobody is told, and nobody stops it."""
