"""How a file is put together by the place: which parts the place copies, and which are sent.

S3 sets the rules: every part but the last has at least 5 MiB, and more where the file would have more than 10,000 parts
otherwise. So a stretch of bytes that the place has is copied if it is that long; what is shorter, or has to fill up a part that
is sent, comes by here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

SMALLEST = 5 << 20
"""Bytes of a part, unless it is the last."""

SENT = 8 << 20
"""Bytes of a part that is sent, at least, where there are as many; each is held in memory while it is."""

COPIED = 128 << 20
"""The same of a part that the server copies."""

MOST = 10_000
"""Parts of a file."""


@dataclass(frozen=True)
class Stretch:
    """Bytes ``begin`` to ``end`` of a file.

    Attributes:
        source: file that has them, ``None`` if none has.
        offset: of the first of them in that file.
    """

    begin: int
    end: int
    source: str | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        return self.end - self.begin


def plan_parts(runs: Iterable[Stretch]) -> list[Stretch]:
    """Cut a file into parts.

    Args:
        runs: the whole file, in order, without holes.

    Returns:
        The parts, in order: with a source those that the server copies, without one those that are sent.
    """
    joined = _joined(runs)
    if not joined:
        return []
    size = joined[-1].end
    smallest = max(SMALLEST, -(-size // MOST))  # all but the last have that many
    kept = [run if run.size >= smallest or run.end == size else replace(run, source=None) for run in joined]
    filled = _filled(_joined(kept), size, smallest)
    sent = max(SENT, -(-size // (MOST // 2)))
    parts: list[Stretch] = []
    for run in filled:
        parts += _cut(run, sent if run.source is None else max(COPIED, sent))
    return parts


def _joined(runs: Iterable[Stretch]) -> list[Stretch]:
    """Neighbours that are copied from one stretch, or that are both sent, as one run."""
    joined: list[Stretch] = []
    for run in runs:
        last = joined[-1] if joined else None
        if run.size == 0:
            continue
        if (
            last is not None
            and last.source == run.source
            and (run.source is None or last.offset + last.size == run.offset)
        ):
            joined[-1] = replace(last, end=run.end)
        else:
            joined.append(run)
    return joined


def _filled(runs: list[Stretch], size: int, smallest: int) -> list[Stretch]:
    """Runs that are sent, made long enough for a part by taking from the copied runs behind them."""
    filled: list[Stretch] = []
    for run in runs:
        last = filled[-1] if filled else None
        if last is not None and last.source is None and run.source is None:
            filled[-1] = replace(last, end=run.end)
        elif last is not None and last.source is None and last.size < smallest:
            taken = min(smallest - last.size, run.size)
            rest = run.size - taken
            if rest < smallest and run.end != size:
                taken, rest = run.size, 0
            filled[-1] = replace(last, end=run.begin + taken)
            if rest:
                filled.append(replace(run, begin=run.begin + taken, offset=run.offset + taken))
        else:
            filled.append(run)
    return filled


def _cut(run: Stretch, size: int) -> list[Stretch]:
    """Equal parts of ``size`` bytes or more, less than twice as many."""
    count = max(1, run.size // size)
    edges = [run.begin + run.size * number // count for number in range(count + 1)]
    return [
        Stretch(begin, end, run.source, run.offset + begin - run.begin if run.source is not None else 0)
        for begin, end in pairwise(edges)
    ]
