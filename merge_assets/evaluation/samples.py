"""What the stored samples of an evaluation say of every document: read once, kept small.

lm-eval logs each document with its prompt, its answers and what it adds to each metric. Here only the last is kept, with what
tells the document: a thousandth of the bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_assets.evaluation.results import StoredResult

FloatArray = NDArray[np.float64]

_NO_NUMBERS = ("nan", "inf", "-inf")
"""What a number that is not finite is written as."""


@dataclass(frozen=True, eq=False)
class TaskSamples:
    """One task's documents, by the filter of their answers.

    Attributes:
        documents: per filter, bytes[documents]: 32 hex digits that tell the document and its target.
        sums: per ``metric,filter``, float64[documents, 2]: what each document adds to the numerator and to the denominator of
            the metric. Metrics that are no such ratio are not there.
    """

    documents: Mapping[str, NDArray[np.bytes_]]
    sums: Mapping[str, FloatArray]


SuiteSamples = Mapping[str, Mapping[str, TaskSamples]]
"""Per digest of a result's key, its first 8 digits, and task name."""


def read_samples(lines: Iterable[bytes | str]) -> TaskSamples:
    """The samples of one task, from its JSON lines.

    A number is a document's part of a mean. Of a pair of numbers the second is its weight, as for log-likelihoods and bytes. Of
    a list of true and false all count, as for IFEval's instructions.
    """
    documents: dict[str, list[bytes]] = {}
    sums: dict[str, list[tuple[float, float] | None]] = {}
    for line in lines:
        row = json.loads(line)
        name = str(row.get("filter", "none"))
        documents.setdefault(name, []).append(_document(row))
        for metric in row.get("metrics", ()):
            sums.setdefault(f"{metric},{name}", []).append(_sums(row.get(metric)))
    return TaskSamples(
        {name: np.array(found, dtype="S32") for name, found in documents.items()},
        {
            name: np.array(found, dtype=np.float64)
            for name, found in sums.items()
            if None not in found and len(found) == len(documents[name.rpartition(",")[2]])
        },
    )


def samples_of_results(results: Iterable[StoredResult]) -> SuiteSamples:
    """The samples of results that were just committed, or lie in the cache."""
    return {
        stored.result.key.digest[:8]: {
            task: read_samples(path.read_bytes().splitlines()) for task, path in stored.sample_files().items()
        }
        for stored in results
    }


def packed(samples: SuiteSamples) -> bytes:
    """Samples as bytes; :func:`unpacked` reads them."""
    arrays: list[NDArray[Any]] = []
    index = []
    for result, tasks in samples.items():
        for task, one in tasks.items():
            for kind, found in (("documents", one.documents), ("sums", one.sums)):
                for name, array in found.items():
                    index.append([result, task, kind, name])
                    arrays.append(array)
            if not one.documents:
                index.append([result, task, "", ""])
                arrays.append(np.zeros(0))
    members: dict[str, Any] = {str(number): array for number, array in enumerate(arrays)}
    file = io.BytesIO()
    np.savez_compressed(file, index=np.array(json.dumps(index)), **members)
    return file.getvalue()


def unpacked(data: bytes) -> SuiteSamples | None:
    """What :func:`packed` made; ``None`` if it is damaged."""
    found: dict[str, dict[str, TaskSamples]] = {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for number, (result, task, kind, name) in enumerate(json.loads(str(arrays["index"]))):
                one = found.setdefault(result, {}).setdefault(task, TaskSamples({}, {}))
                if kind:
                    getattr(one, kind)[name] = arrays[str(number)]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return None
    return found


def _document(row: Mapping[str, Any]) -> bytes:
    told = json.dumps([row.get("doc_hash"), row.get("target_hash")])
    return hashlib.sha256(told.encode()).hexdigest()[:32].encode()


def _sums(value: object) -> tuple[float, float] | None:
    """What a document adds to numerator and denominator; ``None`` if its value is no part of such a ratio."""
    number = _number(value)
    if number is not None:
        return number, 1.0
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    if all(isinstance(each, bool) for each in value):
        return float(sum(value)), float(len(value))
    if len(value) == 2 and None not in (pair := (_number(value[0]), _number(value[1]))):
        return pair  # type: ignore[return-value]
    return None


def _number(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    return float(value) if isinstance(value, str) and value in _NO_NUMBERS else None
