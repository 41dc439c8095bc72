"""Merges into a folder, killed at their n-th step."""

from __future__ import annotations

import os
from pathlib import Path

from merge_assets import api
from merge_assets.work import Work
from tests.faults.build_steps import Steps


def merge_until(root: Path, recipe: str, out: Path, overwrite: bool, last: int, log: Path) -> None:
    """The body of a process that merges, and is killed at step ``last``; a report of progress is a step, too."""
    os.chdir(root)
    steps = Steps(root, last, log)
    space = api.Workspace.open()
    api.merge(
        space,
        space.recipe(recipe),
        out,
        threads=2,
        shard_size=9_000_000,
        overwrite=overwrite,
        work=Work(lambda *_: steps.step("progress")),
    )
