"""How a command that fails ends: one line for people, an object for programs under ``--json``, and the exit code."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from merge_assets.errors import MergeAssetsError

USER_ERROR = 2
STOPPED = 130


def fail(error: MergeAssetsError) -> NoReturn:
    """Print an error and leave."""
    place = {"file": error.file and str(error.file), "key": error.key, "retry_after": error.wait}
    known = {name: value for name, value in place.items() if value is not None}
    _end(str(error), USER_ERROR, {"kind": error.kind, "message": str(error), "may_pass": error.may_pass, **known})


def stop() -> NoReturn:
    """Say that a command was stopped, and leave."""
    message = "stopped; nothing half-written was left"
    _end(message, STOPPED, {"kind": "stopped", "message": message, "may_pass": True})


def _end(message: str, code: int, content: dict[str, Any]) -> NoReturn:
    from rich.text import Text

    from merge_assets.cli.console import SafeConsole, print_json

    if "--json" in sys.argv:
        print_json({"error": content}, indent=None)
    SafeConsole(stderr=True, soft_wrap=True).print(Text("error: ", style="bold red") + Text(message))
    sys.exit(code)
