"""Shared pieces of the commands' output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from merge_assets.errors import SettingsError
from merge_assets.work import Work


@cache
def console() -> Console:
    """Standard output; wide enough for tables when it is not a terminal."""
    made = Console()
    return made if made.is_terminal else Console(width=max(made.width, 160))


@cache
def err() -> Console:
    """Standard error, for progress."""
    return Console(stderr=True)


_EVERY = 0.1
"""Seconds between two updates of a progress bar; reports come with every tile."""


@contextmanager
def progress_bar(label: str, *, is_bytes: bool = True) -> Iterator[Work]:
    """A progress bar on standard error, shown from the first report on; yields the work that moves it."""
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
    if is_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    bar = Progress(*columns, TimeRemainingColumn(), console=err())
    task = bar.add_task(label, total=None)
    shown = 0.0

    def report(done: int, total: int, what: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < _EVERY and done < total:
            return
        shown = now
        bar.start()
        bar.update(task, completed=done, total=total, description=label if is_bytes else f"{label}: {what}")

    try:
        yield Work(report)
    finally:
        if bar.live.is_started:  # else it would print an empty line
            bar.stop()


def parse_size(text: str | None) -> int | None:
    """Bytes of ``5GB``, ``512MiB`` or ``1000000``.

    Raises:
        SettingsError: if it is none.
    """
    if text is None:
        return None
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size <= 0:
        raise SettingsError(f"--shard-size: {text!r} is not a size; write for example 5GB or 512MiB")
    return size
