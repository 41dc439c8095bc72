"""The command line: ``merge-assets``.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType

from merge_assets.errors import MergeAssetsError, Stopped, printable


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a build or check failed, 2 wrong input or an unreachable server, 130 stopped."""
    from merge_assets.cli.app import app
    from merge_assets.cli.failure import fail, stop

    if logging.lastResort is not None:  # what prints warnings where nobody set logging up
        logging.lastResort.setFormatter(_Readable())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except MergeAssetsError as error:
        fail(error)
    except ImportError as error:
        from merge_assets.extras import not_installed

        missing = not_installed(error)
        if missing is None:
            raise
        fail(missing)
    except (Stopped, KeyboardInterrupt):
        stop()


class _Readable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)
