"""Tasks of lm-eval as a suite names them, found and loaded; its texts are tasks, too.

Imported by the model worker alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.tasks import TaskManager

from merge_assets.evaluation.indexing import manager_of
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.texts import TEXT_TASK, TEXT_TASK_NAME, text_metadata


def task_manager(
    suite: Suite, task: str, index: str | None, *, defaults: bool, metadata: Mapping[str, Any]
) -> TaskManager:
    """What knows a task, and all others but texts.

    Args:
        suite: that names it.
        task: its name.
        index: the file with the names of lm-eval's own tasks, where that is kept.
        defaults: whether lm-eval's own tasks are needed.
        metadata: handed to the tasks.
    """
    if text := text_metadata(suite, task):
        return TaskManager(include_path=str(TEXT_TASK), include_defaults=False, metadata={**metadata, **text})
    return manager_of(suite, index, defaults=defaults, metadata=dict(metadata))


def load_task(manager: TaskManager, suite: Suite, task: str) -> Any:
    """The task, or the group with its tasks, as lm-eval loads them; a text by its name in the suite."""
    if suite.text_of(task) is None:
        return manager.load([task])
    loaded = manager.load([TEXT_TASK_NAME])
    text = loaded["tasks"][TEXT_TASK_NAME]
    text.config.task = task
    return {**loaded, "tasks": {task: text}}
