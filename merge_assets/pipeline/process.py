"""Which process works on a run that Dagster did not start, and whether it still lives.

Dagster watches over the runs that it starts. One of `merge-assets build` whose process was killed would count as going on for
ever.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

PROCESS_TAG = ".dagster/merge_assets_process"


def this_process() -> str:
    """Tells this process from all others, also later ones of the same number: host, number, and when it began."""
    return f"{socket.gethostname()} {os.getpid()} {_began(os.getpid()) or '-'}"


def is_gone(process: str) -> bool:
    """Whether a process, as :func:`this_process` called it, is known to have ended; one of another host is not known."""
    host, number, began = process.rsplit(" ", 2) if process.count(" ") >= 2 else ("", "", "")
    if host != socket.gethostname() or not number.isdecimal() or not Path("/proc/self/stat").exists():
        return False
    return _began(int(number)) != began


def _began(number: int) -> str | None:
    try:
        after_name = Path(f"/proc/{number}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] == "Z" else after_name[19]
