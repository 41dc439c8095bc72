"""Shared pieces of the commands' output."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.table import Table

from merge_assets.errors import SettingsError, printable
from merge_assets.shown import visible, visible_json
from merge_assets.work import Work


class SafeConsole(Console):
    """A console on which no text of others acts: what it is given is spelled out, but for its own colours and cursor."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


@cache
def console() -> Console:
    """Standard output; with long lines when it is not a terminal."""
    made = SafeConsole()
    return made if made.is_terminal else SafeConsole(width=max(made.width, 160))


@cache
def err() -> Console:
    """Standard error, for progress."""
    return SafeConsole(stderr=True)


def table(*heads: str, title: str | None = None, numbers: Collection[str] = ()) -> Table:
    """An empty table for :func:`print_table`.

    On a terminal it has lines and its cells are folded to fit; elsewhere it has neither, so that whole lines can be searched.

    Args:
        heads: of the columns.
        title: above it.
        numbers: heads of the columns that are aligned on the right.
    """
    if console().is_terminal:
        made = Table(title=title)
    else:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        justify: Literal["left", "right"] = "right" if head in numbers else "left"
        made.add_column(head, justify=justify, overflow="fold", no_wrap=not console().is_terminal)
    return made


def print_table(shown: Table) -> None:
    """Print a table on standard output, nothing of it cut off."""
    if console().is_terminal:
        console().print(shown)
        return
    wide = SafeConsole(width=_WIDE)
    with wide.capture() as captured:
        wide.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))  # noqa: T201


def print_fact(label: str, value: str, *, style: str = "bold", out: Console | None = None) -> None:
    """One line with its label, on standard output if ``out`` is no other."""
    shown = escape(printable(value))
    (out or console()).print(f"[{style}]{escape(label):>12}[/]  {shown}", soft_wrap=True, highlight=False)


def print_json(value: object, indent: int | None = 1) -> None:
    """As it is, whatever the terminal's width; what a terminal would act on is escaped as JSON does it."""
    print(visible_json(json.dumps(value, indent=indent, ensure_ascii=False)))  # noqa: T201


_WIDE = 100_000
"""Characters of a line that is not shown on a terminal."""

_EVERY = 0.1
"""Seconds between two updates of a progress bar; reports come with every tile."""


@contextmanager
def progress_bar(label: str, *, is_bytes: bool = True) -> Iterator[Work]:
    """A progress bar on standard error, shown from the first report on; yields the work that moves it."""
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()]
    if is_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    bar = Progress(*columns, TimeRemainingColumn(), console=err())
    task = bar.add_task(escape(label), total=None)
    shown = 0.0

    def report(done: int, total: int, what: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < _EVERY and done < total:
            return
        shown = now
        bar.start()
        # Nothing done of nothing: it waits, and says for whom.
        told = label if is_bytes and total else f"{label}: {what}"
        bar.update(task, completed=done, total=total or None, description=escape(told))

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
