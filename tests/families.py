"""Other processes of a test, that come and go while it looks at them."""

from __future__ import annotations

from contextlib import suppress

import psutil


def lives(process: psutil.Process) -> bool:
    """It runs; one that has ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """Its words; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def kill(process: psutil.Process) -> None:
    """Ends it, if it has not ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        process.kill()
