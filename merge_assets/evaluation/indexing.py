"""lm-eval's index of tasks, made anew or of what is kept. Imported by model workers alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from merge_assets.evaluation.declared import Declared, declared_of
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.task_index import index_that_comes, plain, read_names
from merge_assets.evaluation.tasks import values_in
from merge_assets.model_worker import Desk

_KINDS = {"task": Kind.TASK, "class": Kind.PY_TASK, "group": Kind.GROUP, "tag": Kind.TAG}


def names(desk: Desk) -> dict[str, list[Any]]:
    """What lm-eval's own files declare, by name; paths are relative to its folder of tasks."""
    root = Path(lm_eval.tasks.__file__).parent
    return {name: plain(_declared(entry, root)) for name, entry in TaskManager().task_index.items()}


def _declared(entry: Entry, root: Path) -> Declared:
    if entry.kind is Kind.TAG:
        return Declared("tag", members=tuple(sorted(entry.tags)))
    config = entry.cfg or {}
    functions = {leaf for leaf in values_in(config) if isinstance(leaf, str) and leaf.startswith(f"{root}/")}
    files = {f"{leaf.rpartition('.')[0]}.py" for leaf in functions}
    code = tuple(sorted(str(Path(file).relative_to(root)) for file in files if Path(file).is_file()))
    path = str(entry.yaml_path.relative_to(root)) if entry.yaml_path else ""
    found = declared_of(config, path, code, functions)
    if found.metrics is None:
        return found
    # A metric that is a function of a task's own file; where lm-eval lies is nobody's business.
    return replace(found, metrics=tuple(metric.removeprefix(f"{root}/") for metric in found.metrics))


def manager_of(suite: Suite, index: str | None, *, defaults: bool, metadata: dict[str, str]) -> TaskManager:
    """What knows the tasks of a suite.

    Args:
        suite: whose folder's tasks come before those of equal names.
        index: the file with lm-eval's own names. If there is none: those that come with this project; for other versions of
            lm-eval, they are read from its files.
        defaults: whether lm-eval's own tasks are needed.
        metadata: what tasks are told of the model.
    """
    folder = suite.tasks_dir
    kept = Path(index) if index is not None else index_that_comes()
    read = defaults and kept is None
    manager = TaskManager(include_path=str(folder) if folder else None, include_defaults=read, metadata=metadata)
    if defaults and kept is not None:
        root = Path(lm_eval.tasks.__file__).parent
        for name, one in read_names(kept).items():
            tags = set(one.members) if one.kind == "tag" else set()
            path = root / one.path if one.path else None
            manager.task_index.setdefault(name, Entry(name, _KINDS[one.kind], path, None, tags))
    return manager
