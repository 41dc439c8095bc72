"""Runs and steps that end with the processes for which they work.

A run is a process of the code server, and its steps are asked for by the run but forked from a process between the two. The
kernel ends none of them when another is killed: each watches its own line, and stops as if somebody had cancelled it, so that
it leaves nothing half-written. The processes in which models are loaded end with the step (see ``model_worker/``).
"""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait

STOP_SECONDS = 90
"""How long a process may take to stop before it is killed; longer than its work may take (``pipeline/work.py``)."""

_LOOK_SECONDS = 1.0
_watching = 0


def end_with_parent() -> None:
    """Have this process end with the one that asked for it, if that is one of Python's ``multiprocessing``; and with the one
    that it was forked from."""
    global _watching
    parent = multiprocessing.parent_process()
    if parent is None or _watching == os.getpid():
        return
    _watching = os.getpid()
    threading.Thread(target=_watch, args=(parent.sentinel, os.getppid()), name="lifeline", daemon=True).start()


def _watch(asking: int, forking: int) -> None:
    while os.getppid() == forking and not wait([asking], _LOOK_SECONDS):
        pass
    os.kill(os.getpid(), signal.SIGINT)  # Dagster's own way to stop a run or a step
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
