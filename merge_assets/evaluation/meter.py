"""Progress of lm-eval, in requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from merge_assets.model_worker import Desk

_TELL_SECONDS = 0.1


class Meter:
    """Counts requests and tells of them, ten times a second at most; also that something is done between two of them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._next = 0.0
        self.done, self.total, self.what = 0, 0, ""

    def begin(self, total: int, what: str) -> None:
        self.done, self.total, self.what = 0, total, what
        self._tell()

    def check(self) -> None:
        """A sign of life."""
        if time.monotonic() >= self._next:
            self._tell()

    def advance(self, count: int) -> None:
        self.done += count
        if time.monotonic() >= self._next or self.done >= self.total:
            self._tell()

    def _tell(self) -> None:
        self._next = time.monotonic() + _TELL_SECONDS
        self._desk.report(self.done, max(self.total, self.done), self.what)

    def add_partial(self, kind: str, request: object, answer: object) -> None:
        """lm-eval's cache hook: called once per answered request."""
        if kind != "loglikelihood_rolling":
            self.advance(1)

    def prompts(self, items: Iterable[Any], **_: object) -> Iterator[Any]:
        """Stands in for tqdm around the building of prompts, which may take minutes."""
        for item in items:
            self.check()
            yield item
