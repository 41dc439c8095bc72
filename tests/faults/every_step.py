"""Merges over an older folder, killed at their n-th call of the file system, for every n until one survives.

``python -m tests.faults.every_step ROOT swap|aside``: ROOT has a model ``m`` and the recipe ``copy`` of it; ``aside``
is for file systems on which two folders cannot swap their names. Prints how many died before and after OUT was new.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

from merge_assets import api
from merge_assets.errors import Stopped
from merge_assets.work import Work
from tests.faults.support import content, names

EVENTS = ("open", "os.", "shutil.", "fcntl.")


def die_at(step: int) -> None:
    """Kill this process at its ``step``-th call after it has begun to write."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if seen or (event == "os.mkdir" and ".merging-" in str(arguments[0])):
            seen += event.startswith(EVENTS)
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(root: Path, how: str) -> None:
    os.chdir(root)
    if how == "aside":
        vars(importlib.import_module("merge_assets.api.staging"))["_exchange"] = lambda one, other: False
    workspace = api.Workspace.open()
    out, recipe = root / "out", workspace.recipe("copy")
    api.merge(workspace, recipe, root / "older")
    api.merge(workspace, recipe, root / "finished", shard_size=5000)
    older, finished = content(root / "older"), content(root / "finished")
    assert "model.safetensors" in older.keys() - finished.keys()
    assert "model.safetensors.index.json" in finished.keys() - older.keys()
    step = before = after = 0
    while True:
        if content(out) != older:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(root / "older", out)
        step += 1
        child = os.fork()
        if child == 0:
            die_at(step)
            api.merge(workspace, recipe, out, shard_size=5000, overwrite=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if how == "aside" and not out.exists():
            try:  # the older model is whole, and the next merge puts it back, even one that comes to nothing
                api.merge(workspace, recipe, out, work=Work(should_stop=lambda: True))
            except Stopped:
                assert content(out) == older, step
        found = content(out)
        assert found in (older, finished), (step, sorted(found))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            assert found == finished
            assert [name for name in names(root) if name.startswith(".")] == []
            break
        before, after = before + (found == older), after + (found == finished)
    sys.stdout.write(f"{before} {after}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
