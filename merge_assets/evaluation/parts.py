"""Which of a task's documents are asked: all, those that a search may see, or those that confirm what it found.

Which part a document is in follows from its content and a seed, not from its place. Equal documents are in one part. A fraction
of those of a search is one of each task, and so of each task of a group; a smaller one is part of a larger one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.results import ResultKey
from merge_assets.evaluation.suite_task import Documents


def chosen_of(key: ResultKey, tasks: Iterable[Any]) -> dict[str, list[int]] | None:
    """Per task name, the numbers of the documents that a result is of; None where lm-eval takes all or the first.

    Args:
        key: of the result.
        tasks: of lm-eval, single ones, with their data.
    """
    if key.documents == "all" or key.confirm is None:
        return None
    found = {}
    for task in tasks:
        try:
            found[task.task_name] = chosen(task.eval_docs, key.documents, key.confirm, key.seed, key.limit)
        except ValueError as error:
            raise EvaluationError(f"{task.task_name}: {error}") from None
    return found


def chosen(
    documents: Sequence[Mapping[str, Any]],
    part: Documents,
    confirm: int | float,
    seed: int,
    limit: int | float | None,
) -> list[int]:
    """The numbers of the documents of a part, ascending.

    Args:
        documents: all of the task.
        part: ``search``, ``search/N`` or ``confirm``.
        confirm: how many are kept from a search, or the fraction of them; more where documents are equal.
        seed: which they are.
        limit: how many of the part, its first ones, or the fraction of it; None means all.

    Raises:
        ValueError: the task has too few documents for two parts.
    """
    hashes = [_hash(document, seed) for document in documents]
    wanted = confirm if confirm >= 1 else math.ceil(confirm * len(hashes))
    bound = sorted(hashes)[min(int(wanted), len(hashes)) - 1] if hashes else ""
    if all(one <= bound for one in hashes):
        raise ValueError(
            f"of its {len(hashes)} documents, confirm: {confirm} leaves none for a search; lower confirm in the suite"
        )
    found = [number for number, one in enumerate(hashes) if (one <= bound) == (part == "confirm")]
    if limit is not None:
        found = found[: math.ceil(limit * len(found)) if limit < 1 else int(limit)]
    fewer = math.ceil(len(found) / int(part.partition("/")[2] or 1))
    last = sorted(hashes[number] for number in found)[fewer - 1] if found else ""
    return [number for number in found if hashes[number] <= last]


def _hash(document: Mapping[str, Any], seed: int) -> str:
    content = json.dumps([seed, document], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()
