"""Which data a task was measured with: pinned beforehand where a suite says so, and observed in any case."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_COMMIT = re.compile("(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")
_HASHES = ("doc_id", "doc_hash", "prompt_hash", "target_hash")
"""What lm-eval logs of every document that it evaluated."""


def data_of(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Per task name, SHA-256 of its documents, prompts and targets as they were evaluated; the order does not count.

    Args:
        samples: per task name, one mapping per evaluated document and filter, as lm-eval logs them.
    """
    return {task: _digest(rows) for task, rows in samples.items()}


def revisions_of(tasks: Iterable[Any]) -> dict[str, str]:
    """The commit of each task's data set, by the task's name, where one is known.

    Args:
        tasks: of lm-eval, with their data; or groups of them.
    """
    single = [task for one in tasks for task in (one.get_all_tasks() if hasattr(one, "get_all_tasks") else [one])]
    return {task.task_name: commit for task in single if (commit := revision_of(getattr(task, "dataset", None)))}


def revision_of(dataset: object) -> str | None:
    """The commit of the Hub's repository that loaded data come from; ``None`` where no or no single one is known.

    Args:
        dataset: splits by name, as ``datasets`` loads them; anything else has no commit.
    """
    splits = dataset.values() if isinstance(dataset, Mapping) else [dataset]
    found = {commit for split in splits for place in _places(split) for commit in _COMMIT.findall(place)}
    return found.pop() if len(found) == 1 else None


@contextlib.contextmanager
def pinned(revision: str | None) -> Iterator[None]:
    """Data sets of the Hub are loaded at this commit, whatever a task's own file says."""
    if revision is None:
        yield
        return
    import datasets

    load = datasets.load_dataset

    def load_pinned(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **{**options, "revision": revision})

    datasets.load_dataset = load_pinned
    try:
        yield
    finally:
        datasets.load_dataset = load


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    documents = sorted({json.dumps([row.get(name) for name in _HASHES]) for row in rows})
    return hashlib.sha256("\n".join(documents).encode()).hexdigest()


def _places(split: Any) -> list[str]:
    """Where a split was read: addresses of its files, and the folder in which ``datasets`` keeps them by commit."""
    downloaded = getattr(getattr(split, "info", None), "download_checksums", None) or {}
    cached = getattr(split, "cache_files", None) or []
    return [*map(str, downloaded), *(str(file.get("filename", "")) for file in cached)]
