"""The data of a task, brought into the caches: a verb of a model worker that has a network and knows no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_assets.evaluation.command import allow_code
from merge_assets.evaluation.data import DataHub, Fetched, fetching
from merge_assets.evaluation.draws import keep_made_apart
from merge_assets.evaluation.loading import task_manager
from merge_assets.evaluation.quiet import be_quiet
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.task_index import ships
from merge_assets.extras import not_installed
from merge_assets.model_worker import Desk


def fetch(
    desk: Desk,
    *,
    suite: Mapping[str, Any],
    suite_file: str,
    index: str | None,
    task: str,
    revision: str | None,
    hub: Mapping[str, Any],
) -> list[Fetched]:
    """Bring the data of a task into the caches, by making the task, at a commit where the suite names one, and tell what they
    are."""
    be_quiet()
    keep_made_apart()  # it may be drawn, and here without seeds
    DataHub(**hub).use()
    read = Suite.model_validate({**suite, "file": Path(suite_file)})
    allow_code(read)
    defaults = ships(read, task)
    if defaults not in desk.held:
        desk.held[defaults] = task_manager(read, task, index, defaults=defaults, metadata={})
    manager = desk.held[defaults]
    if task in manager.task_index:  # what there is not, tasks and packages, the worker will say
        with fetching(revision) as fetched:
            try:
                manager.load([task])
            except ImportError as error:
                if not_installed(error) is None:
                    raise
        return fetched
    return []
