"""Which data a task was measured with: pinned beforehand where a suite says so, and observed in any case."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_assets.errors import EvaluationError

if TYPE_CHECKING:
    from merge_assets.evaluation.results import ResultKey

Fetched = tuple[str, dict[str, list[str]]]
"""How a data set was asked for, and the files in which each of its splits lies."""

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
    return {
        task.task_name: commit
        for task in single_tasks(tasks)
        if (commit := revision_of(getattr(task, "dataset", None)))
    }


def single_tasks(tasks: Iterable[Any]) -> list[Any]:
    """Tasks of lm-eval, and those of groups of them."""
    return [task for one in tasks for task in (one.get_all_tasks() if hasattr(one, "get_all_tasks") else [one])]


def revision_of(dataset: object) -> str | None:
    """The commit of the Hub's repository that loaded data come from; ``None`` where no or no single one is known.

    Args:
        dataset: splits by name, as ``datasets`` loads them; anything else has no commit.
    """
    splits = dataset.values() if isinstance(dataset, Mapping) else [dataset]
    found = {commit for split in splits for place in _places(split) for commit in _COMMIT.findall(place)}
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class DataHub:
    """The Hub that data sets are fetched from.

    Attributes:
        endpoint: its URL; ``None`` leaves it to the environment.
        token: for data sets that are not open; ``None`` leaves it to the environment.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)

    def use(self) -> None:
        """Have this process ask this Hub, from now on."""
        import datasets
        from huggingface_hub import constants

        if self.endpoint is not None:
            constants.ENDPOINT = datasets.config.HF_ENDPOINT = self.endpoint.rstrip("/")
            constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
        if self.token is not None:
            os.environ["HF_TOKEN"] = self.token


class FetchedData:
    """Where the data of tasks lie that were fetched, for as long as a project is open: all models that are evaluated then have
    the same, and nothing is asked for twice."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, ...], Sequence[Fetched]] = {}

    def find(self, key: ResultKey) -> Sequence[Fetched] | None:
        """What was fetched for a task of these files at this commit; ``None`` if nothing was, or it lies there no more."""
        known = self._known.get(_task_of(key))
        lie_there = known and all(Path(one).is_file() for _, files in known for each in files.values() for one in each)
        return known if lie_there else None

    def keep(self, key: ResultKey, fetched: Sequence[Fetched]) -> None:
        self._known[_task_of(key)] = fetched


def _task_of(key: ResultKey) -> tuple[str | None, ...]:
    return key.task, key.task_digest, key.revision, key.lm_eval


@contextlib.contextmanager
def fetching(revision: str | None) -> Iterator[list[Fetched]]:
    """Data sets are loaded, those of the Hub at this commit if there is one; where they came to lie is in the list."""
    import datasets

    load, kept = datasets.load_dataset, []

    def fetch(*arguments: Any, **options: Any) -> Any:
        loaded = _at(revision, load, arguments, options)
        if (files := _files(loaded)) is not None:
            kept.append((_call(arguments, options), files))
        return loaded

    with _loading(fetch):
        yield kept


@contextlib.contextmanager
def reading(revision: str | None, fetched: Iterable[Sequence[Any]]) -> Iterator[None]:
    """Data sets are those that were fetched. Without a network, the library would take whatever commit it saw last, also
    where another is asked for.

    Args:
        revision: at which data sets of the Hub have to be.
        fetched: what :func:`fetching` found.
    """
    import datasets

    load, known = datasets.load_dataset, {str(call): files for call, files in fetched}

    def read(*arguments: Any, **options: Any) -> Any:
        files = known.get(_call(arguments, options))
        return _at(revision, load, arguments, options) if files is None else _read(files)

    with _loading(read):
        yield


@contextlib.contextmanager
def _loading(load: Callable[..., Any]) -> Iterator[None]:
    import datasets

    before = datasets.load_dataset
    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = before


def _at(revision: str | None, load: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What is loaded, which has to be of the commit."""
    loaded = load(*arguments, **(options if revision is None else {**options, "revision": revision}))
    found = revision_of(loaded)
    if revision is not None and found not in (None, revision):
        raise EvaluationError(f"the data are there at commit {found}, and the suite pins {revision}")
    return loaded


def _call(arguments: tuple[Any, ...], options: Mapping[str, Any]) -> str:
    return json.dumps([arguments, options], sort_keys=True, default=str)


def _files(loaded: object) -> dict[str, list[str]] | None:
    """The files of every split; of one alone under no name. ``None`` if they do not lie in files."""
    splits = loaded if isinstance(loaded, Mapping) else {"": loaded}
    found = {
        str(name): [str(file["filename"]) for file in getattr(split, "cache_files", None) or ()]
        for name, split in splits.items()
    }
    return found if found and all(found.values()) else None


def _read(files: Mapping[str, Sequence[str]]) -> Any:
    import datasets

    splits = {
        name: datasets.concatenate_datasets([datasets.Dataset.from_file(file, split=name or None) for file in each])
        for name, each in files.items()
    }
    return splits[""] if "" in splits else datasets.DatasetDict(splits)


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    documents = sorted({json.dumps([row.get(name) for name in _HASHES]) for row in rows})
    return hashlib.sha256("\n".join(documents).encode()).hexdigest()


def _places(split: Any) -> list[str]:
    """Where a split was read: addresses of its files, and the folder in which ``datasets`` keeps them by commit."""
    downloaded = getattr(getattr(split, "info", None), "download_checksums", None) or {}
    cached = getattr(split, "cache_files", None) or []
    return [*map(str, downloaded), *(str(file.get("filename", "")) for file in cached)]
