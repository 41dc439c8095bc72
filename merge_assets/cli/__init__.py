"""The command line: ``merge-assets``.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from merge_assets.errors import MergeAssetsError, Stopped

USER_ERROR = 2
STOPPED = 130


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a build or check failed, 2 wrong input, 130 stopped."""
    from merge_assets.cli.app import app

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except MergeAssetsError as error:
        _fail(str(error), USER_ERROR)
    except (Stopped, KeyboardInterrupt):
        _fail("stopped; nothing half-written was left", STOPPED)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


def _fail(message: str, code: int) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))
    sys.exit(code)
