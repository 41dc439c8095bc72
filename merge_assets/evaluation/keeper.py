"""``python -m merge_assets.evaluation.keeper PROGRAM ARGUMENT…``: keeps a server that was started for an evaluation.

The server, and all that it started, ends when who asked for it has ended, however that came about: standard input is closed
then.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

from merge_assets.model_worker.confine import adopt_orphans
from merge_assets.model_worker.guard import end_all

_LOOK_SECONDS = 0.1
_SECONDS_TO_END = 10


def main() -> int:
    """The exit code of the server, if it ended first."""
    parent = os.getppid()
    adopt_orphans()
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    while server.poll() is None and os.getppid() == parent and not select.select([0], [], [], _LOOK_SECONDS)[0]:
        pass
    ended = server.returncode
    if ended is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_SECONDS_TO_END)
    end_all()
    return 0 if ended is None else abs(ended)


if __name__ == "__main__":
    sys.exit(main())
