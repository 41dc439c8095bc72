"""Which process is which: numbers are given again, the time at which one began is not."""

from __future__ import annotations

from pathlib import Path


def began(number: int) -> str | None:
    """When a process began, in ticks of the kernel; empty for one that has ended, ``None`` if that cannot be told."""
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]
