"""By what something is made: this package, the command, the kind of machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from itertools import takewhile
from pathlib import Path

import merge_assets
from merge_assets.records import Provenance
from merge_assets.shown import visible, without_credentials

_LONGEST = 200
"""Dagster hands its steps over as arguments that nobody reads; from the first such on they are left out."""


def provenance(started: datetime) -> Provenance:
    """What to write down of work that began at ``started`` and is finished now."""
    return Provenance(
        merge_assets=merge_assets.__version__,
        commit=_commit(),
        command=_command(),
        host=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        started=started,
        ended=datetime.now(UTC),
    )


def _command() -> str:
    program, *arguments = sys.argv or [""]
    short = takewhile(lambda text: len(text) < _LONGEST and "{" not in text, arguments)
    return shlex.join([Path(program).name, *(visible(without_credentials(text)) for text in short)])


@cache
def _commit() -> str | None:
    """The commit of the source that runs, ``None`` where it is not a git checkout of this package."""
    package = Path(merge_assets.__file__).parent
    if not (package.parent / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ("git", "-C", package, "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"),
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
