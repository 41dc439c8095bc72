"""Run the command line as a user does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a command printed and its exit code."""

    code: int
    stdout: str
    stderr: str


def command_environment(root: Path) -> dict[str, str]:
    """The environment without settings of the machine, and a Dagster home inside the project."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MERGE_ASSETS_", "DAGSTER_", "HF_"))}
    return kept | {"DAGSTER_HOME": "", "COLUMNS": "200", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "PWD": str(root)}


def run_command(*arguments: str, root: Path, environment: Mapping[str, str] | None = None) -> Done:
    """``merge-assets ARGUMENTS`` in the project folder ``root``."""
    done = subprocess.run(
        [sys.executable, "-m", "merge_assets", *arguments],
        cwd=root,
        env=command_environment(root) | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
