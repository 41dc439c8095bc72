"""What the samples of stored scores say of every document; read once, and kept small in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.errors import MergeAssetsError
from merge_assets.store import Artifact

if TYPE_CHECKING:
    from merge_assets.evaluation.samples import SuiteSamples
    from merge_assets.evaluation.scores import Scores
    from merge_assets.workspace.results import KnownScores

_TASK = re.compile(r"tasks/[^/]*-(?P<result>[0-9a-f]{8})/samples\.json")


class StoredSamples:
    """The samples of scores that were found in the store.

    Args:
        known: which found them.
        cache: folder in which what is read is kept, by the digests of what it was read from.
    """

    def __init__(self, known: KnownScores, cache: Path) -> None:
        self._known = known
        self._cache = cache / "samples"
        self._added: list[tuple[Scores, Artifact]] = []

    def add(self, scores: Scores, artifact: Artifact) -> None:
        """Take scores whose version is known."""
        self._added.append((scores, artifact))

    def __call__(self, scores: Scores) -> SuiteSamples:
        """The samples; empty if there are none, or they are damaged."""
        from merge_assets.evaluation.samples import packed, unpacked

        added = next((artifact for one, artifact in self._added if one is scores), None)
        artifact = added or self._known.artifact(scores)
        if artifact is None:
            return {}
        file = self._cache / f"{_digest(artifact)}.npz"
        if file.is_file() and (kept := unpacked(file.read_bytes())) is not None:
            return kept
        try:
            found = _read(artifact)
        except (MergeAssetsError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        self._cache.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_bytes(packed(found))
        draft.replace(file)
        return found

    def lines(self, scores: Scores, result: str, task: str) -> list[bytes]:
        """The samples of a task as lm-eval logged them, a line each; empty if there are none, or they cannot be read.

        Args:
            scores: found in the store.
            result: the first 8 digits of the digest of the task's result.
            task: a task, or a member of a group.
        """
        artifact = self._known.artifact(scores)
        try:
            for name in artifact.manifest.files if artifact is not None else ():
                if (found := _TASK.fullmatch(name)) is not None and found["result"] == result and artifact is not None:
                    file = json.loads(artifact.read_bytes(name))["files"][task]
                    return artifact.read_bytes(f"{name.rpartition('/')[0]}/{file}").splitlines()
        except (MergeAssetsError, ValueError, KeyError, TypeError):
            return []
        return []


def _digest(artifact: Artifact) -> str:
    digests = {name: entry.sha256 for name, entry in artifact.manifest.files.items() if name.startswith("tasks/")}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _read(artifact: Artifact) -> SuiteSamples:
    from merge_assets.evaluation.samples import read_samples

    found = {}
    for name in artifact.manifest.files:
        if (task := _TASK.fullmatch(name)) is not None:
            folder = name.rpartition("/")[0]
            files = json.loads(artifact.read_bytes(name))["files"]
            found[task["result"]] = {
                one: read_samples(artifact.read_bytes(f"{folder}/{file}").splitlines()) for one, file in files.items()
            }
    return found
