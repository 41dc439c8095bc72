"""Which process works on a run that Dagster did not start, and whether it still lives.

Dagster watches over the runs that it starts. One of `merge-assets build` whose process was killed would count as going on for
ever.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from merge_assets.processes import began

PROCESS_TAG = ".dagster/merge_assets_process"


def this_process() -> str:
    """Tells this process from all others, also later ones of the same number: host, number, and when it began."""
    return f"{socket.gethostname()} {os.getpid()} {began(os.getpid()) or '-'}"


def is_gone(process: str) -> bool:
    """Whether a process, as :func:`this_process` called it, is known to have ended; one of another host is not known."""
    host, number, when = process.rsplit(" ", 2) if process.count(" ") >= 2 else ("", "", "")
    if host != socket.gethostname() or not number.isdecimal() or not Path("/proc/self/stat").exists():
        return False
    return began(int(number)) != when
