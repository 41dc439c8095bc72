"""Results of single evaluation tasks, committed one by one so that an interrupted suite continues.

A result is keyed by everything that determines it. It is written to a temporary directory and renamed: a reader
sees a complete result or none, and of two writers of one key the first wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from merge_assets.evaluation.answers import AnswersFolder
from merge_assets.evaluation.disagreement import Disagreement
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.model_settings import ModelSettings
from merge_assets.evaluation.suite_task import Documents
from merge_assets.records import FORMAT, Record, RecordFile
from merge_assets.sealed import seal, unseal

EVALUATION_VERSION = "2"
"""Raised whenever the same model, task and settings may give other numbers because of how we evaluate; part of every key."""

_RESULT_FILE = "result.json"
_SAMPLES_FILE = "samples.json"


class SampleCount(Record, strict=True):
    """Documents of one task: all of the split, and those evaluated."""

    original: int
    effective: int


class Circumstances(Record):
    """By what, on what and with which documents one task was measured.

    Recorded, not part of the key: a patch release of torch is no reason to throw away every score, but one to say so beside a
    difference.

    Attributes:
        versions: of lm_eval, transformers, torch and datasets.
        device: where the model ran: ``cpu``, ``cuda``.
        dtype: of the loaded weights.
        data: per task name, digest of its documents, prompts and targets as they were evaluated.
        revisions: per task name, commit of its data set on the Hub, where one is known.
        batch_size: sequences per forward pass.
        chat: whether prompts were turns of a conversation.
    """

    versions: dict[str, str] = Field(default_factory=dict)
    device: str = ""
    dtype: str = ""
    data: dict[str, str] = Field(default_factory=dict)
    revisions: dict[str, str] = Field(default_factory=dict)
    batch_size: int = 1
    chat: bool = False


class ResultKey(BaseModel):
    """All that determines the result of one task, but for its :class:`Circumstances`.

    Attributes:
        evaluation: see :data:`EVALUATION_VERSION`.
        model: fingerprint of the evaluated checkpoint.
        task: lm-eval task, group or tag name.
        task_digest: digest of the task's files.
        shots: few-shot examples; None leaves it to the task.
        limit: documents per task (int), or the fraction of them (float below 1); None means all.
        seed: seed of numpy, torch and the few-shot sampler.
        dtype: requested dtype of the loaded weights; "auto" is the checkpoint's own.
        batch_size: sequences per forward pass, or ``auto``. Padding changes the last digits of a log-likelihood.
        lm_eval: version of lm-eval.
        revision: commit of the data set that the suite pins. That which a task's own file pins is in its digest.
        trust_remote_code: whether code that comes with the checkpoint was run where it asks for that; its fingerprint covers
            the code.
        settings: how the model was loaded and asked.
        documents: of the task: all, those that a search may see, or those that it never does.
        confirm: how many a search never sees, or the fraction of them; None where all are asked.
        to: fingerprint of the checkpoint that the model was compared with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    evaluation: str
    model: str
    task: str
    task_digest: str
    shots: int | None
    limit: int | float | None
    seed: int
    dtype: str
    batch_size: int | str
    lm_eval: str
    revision: str | None
    trust_remote_code: bool
    settings: ModelSettings = ModelSettings()
    documents: Documents = "all"
    confirm: int | float | None = None
    to: str | None = None

    @property
    def digest(self) -> str:
        """sha256 hex over the key's canonical JSON."""
        text = json.dumps({"format": FORMAT, **self.model_dump(mode="json")}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class TaskResult(RecordFile):
    """What lm-eval found for one task of a suite.

    Attributes:
        key: what determines the result.
        metrics: per task and group name, lm-eval's ``metric,filter`` and ``metric_stderr,filter`` values;
            None where lm-eval gives none or the value is not finite.
        higher_is_better: per task and group name, the direction of each metric.
        shots: per task and group name, the few-shot examples used.
        samples: per task name, how many documents were evaluated.
        task_versions: per task name, the version that the task's metadata give.
        seeds: of Python's random, numpy, torch and the few-shot sampler.
        versions: of lm_eval, transformers, torch and datasets.
        device: where the model ran.
        model_dtype: dtype of the loaded weights.
        data: per task name, digest of its documents, prompts and targets as they were evaluated.
        revisions: per task name, commit of its data set on the Hub, where one is known.
        batch_size: sequences per forward pass.
        chat: whether prompts were turns of a conversation.
        flaws: per task name, with how many documents something was wrong; tasks without any are left out.
        command: the lm-eval command line that gives the same numbers; empty where there is none.
        seconds: wall time of the task without loading the model.
        disagreements: where in a text the model is least of the mind of the one that it was compared with, the worst first.
    """

    key: ResultKey
    metrics: dict[str, dict[str, float | None]]
    higher_is_better: dict[str, dict[str, bool]]
    shots: dict[str, int]
    samples: dict[str, SampleCount]
    task_versions: dict[str, str]
    seeds: dict[str, int]
    versions: dict[str, str]
    device: str
    model_dtype: str
    command: list[str]
    seconds: float = Field(ge=0)
    created: str = Field(description="UTC, ISO 8601")
    data: dict[str, str] = Field(default_factory=dict)
    revisions: dict[str, str] = Field(default_factory=dict)
    batch_size: int = 1
    chat: bool = False
    flaws: dict[str, Flaws] = Field(default_factory=dict)
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def circumstances(self) -> Circumstances:
        return Circumstances(
            versions=self.versions,
            device=self.device.partition(":")[0],
            dtype=self.model_dtype,
            data=self.data,
            revisions=self.revisions,
            batch_size=self.batch_size,
            chat=self.chat,
        )


@dataclass(frozen=True)
class StoredResult:
    """A committed result and its directory."""

    result: TaskResult
    directory: Path

    @property
    def folder_name(self) -> str:
        """Name of a folder for it among those of a suite."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.result.key.task).strip("._") or "task"
        return f"{name}-{self.result.key.digest[:8]}"

    def sample_files(self) -> dict[str, Path]:
        """JSON-lines file of the logged samples of each task name."""
        fields = unseal((self.directory / _SAMPLES_FILE).read_bytes()) or {}
        return {task: self.directory / name for task, name in fields.get("files", {}).items()}


class TaskResults:
    """Committed task results below one directory, shared by all models and suites.

    Args:
        directory: created when the first result is committed.

    Attributes:
        answers: what was answered of tasks, finished or not.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answers = AnswersFolder(directory / "answers")

    def find(self, key: ResultKey) -> StoredResult | None:
        """The committed result of ``key``, or None; a damaged one counts as absent."""
        stored = _read(self._path(key))
        return stored if stored is not None and stored.result.key == key else None

    def commit(
        self, result: TaskResult, samples: Mapping[str, Sequence[Mapping[str, Any]]], *, replace: bool = False
    ) -> StoredResult:
        """Makes a result visible, samples first.

        Args:
            result: the task's result.
            samples: per task name, one mapping per evaluated document and filter.
            replace: put it in the place of one that is there, which otherwise stays.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        final = self._path(result.key)
        draft = self.directory / f".draft-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        draft.mkdir()
        try:
            names = {task: f"samples_{_file_name(task)}.jsonl" for task in samples}
            digests: dict[str, str] = {}
            for task, rows in samples.items():
                lines = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
                digests[names[task]] = _write(draft / names[task], (line.encode() for line in lines))
            _write(draft / _SAMPLES_FILE, [seal({"files": names, "sha256": digests}, indent=1)])
            _write(draft / _RESULT_FILE, [seal(result.model_dump(mode="json"), indent=1)])
            if replace or self.find(result.key) is None:
                shutil.rmtree(final, ignore_errors=True)
                final.parent.mkdir(exist_ok=True)
                # Another writer may have renamed first; its result is as good.
                with contextlib.suppress(OSError):
                    draft.rename(final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        stored = self.find(result.key)
        if stored is None:
            raise OSError(f"result of {result.key.task} could not be committed to {final}")
        return stored

    def forget(self, models: Collection[str]) -> None:
        """Removes the results and answers of models, by their fingerprints."""
        self.answers.forget(models)
        for stored in self:
            if stored.result.key.model in models:
                shutil.rmtree(stored.directory, ignore_errors=True)

    def __iter__(self) -> Iterator[StoredResult]:
        for path in sorted(self.directory.glob(f"[0-9a-f][0-9a-f]/*/{_RESULT_FILE}")):
            if (stored := _read(path.parent)) is not None:
                yield stored

    def _path(self, key: ResultKey) -> Path:
        return self.directory / key.digest[:2] / key.digest

    def _remove_stale(self) -> None:
        """Removes drafts of processes of this host that no longer run."""
        for draft in self.directory.glob(f".draft-{socket.gethostname()}-*"):
            pid = int(draft.name.split("-")[-2])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                shutil.rmtree(draft, ignore_errors=True)
            except PermissionError:
                continue


def plain(value: Any) -> Any:
    """``value`` as strict JSON: numpy numbers become Python's, non-finite numbers and other objects text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    return str(value)


def _file_name(task: str) -> str:
    safe = "".join(char if char.isalnum() or char in "._-" else "_" for char in task).lstrip(".")
    return safe if safe == task else f"{safe}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def _read(directory: Path) -> StoredResult | None:
    """The result that lies in a directory; ``None`` if there is none, or anything of it is not as it was written."""
    try:
        result = TaskResult.of(unseal((directory / _RESULT_FILE).read_bytes()))
        samples = unseal((directory / _SAMPLES_FILE).read_bytes())
        if samples is None:
            return None
        for name, sha256 in samples["sha256"].items():
            with (directory / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return None
    except (OSError, ValueError):
        return None
    return StoredResult(result, directory)


def _write(path: Path, parts: Iterable[bytes]) -> str:
    """Write a file, and bring it to the disk; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
