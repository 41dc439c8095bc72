"""Suites: YAML files that name evaluation tasks with their shots, metric and limit.

A suite file is read strictly; an unknown key or a wrong type is an :class:`EvaluationError` that names the file
and the key path. One wrong file does not take the others down (:func:`load_suites`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from merge_assets.errors import EvaluationError, RecipeError, did_you_mean, in_one_line
from merge_assets.evaluation.declared import Declared
from merge_assets.evaluation.headline import DeclaredHeadline, DeclaredPart, require_listed
from merge_assets.evaluation.model_settings import Generation, ModelArguments, ModelSettings, VllmArguments
from merge_assets.evaluation.suite_files import SuiteText, read_suite, read_texts
from merge_assets.evaluation.suite_problems import explain
from merge_assets.evaluation.suite_task import SuiteTask, whole_or_fraction
from merge_assets.evaluation.tasks import LocalTask, TaskFolder
from merge_assets.evaluation.texts import local_text
from merge_assets.reference import ModelReference
from merge_assets.regular import is_folder
from merge_assets.shown import without_credentials
from merge_assets.yamlfile import parse_documents

_MAX_TASKS = 1000

BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]


class Suite(ModelSettings):
    """A named list of evaluation tasks, and how models are asked them.

    Attributes:
        file: the YAML file it was read from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: Path = Field(exclude=True, repr=False)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    description: Annotated[str, AfterValidator(without_credentials)] = Field("", description="one line")
    headline: DeclaredHeadline = Field(
        "average", description="mean of the headline metrics, or the parts it is a mean of"
    )
    tasks: tuple[SuiteTask, ...] = Field(min_length=1, max_length=_MAX_TASKS, strict=False)
    include_path: str | None = Field(None, description="folder of lm-eval task files, relative to the suite file")
    seed: int = Field(1234, ge=0, lt=2**32, description="seed of numpy, torch and the few-shot sampler")
    batch_size: BatchSize | None = Field(
        None, description="sequences per forward pass, or auto, as many as memory has room for; null means 1"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype in which weights are loaded; auto is the checkpoint's own, slow on CPUs for bfloat16"
    )
    confirm: int | float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="documents of each task that a search never sees, or their fraction",
    )
    trust_remote_code: tuple[ModelReference, ...] = Field(
        (), strict=False, description="models whose code is run when they are evaluated, without a network"
    )

    _folder: TaskFolder | None = PrivateAttr(None)
    _digest: str | None = PrivateAttr(None)
    _otherwise: dict[str, Any] = PrivateAttr(default_factory=dict)
    _task_digests: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("trust_remote_code", mode="before")
    @classmethod
    def _references(cls, models: object) -> object:
        """From text; what is none is left to pydantic to say."""
        if not isinstance(models, list | tuple):
            return models
        return [ModelReference.parse(model) if isinstance(model, str) else model for model in models]

    @field_serializer("trust_remote_code")
    def _texts(self, models: tuple[ModelReference, ...]) -> list[str]:
        return [str(model) for model in models]

    @field_validator("confirm")
    @classmethod
    def _whole_or_fraction(cls, confirm: int | float | None) -> int | float | None:
        return whole_or_fraction(confirm)

    @model_validator(mode="after")
    def _each_once(self) -> Suite:
        seen = set()
        for entry in self.tasks:
            if (entry.task, entry.metric) in seen:
                raise ValueError(f"task {entry.task} with metric {entry.metric} is listed twice")
            seen.add((entry.task, entry.metric))
        pieces: dict[str, set[object]] = {}
        for entry in self.tasks:
            pieces.setdefault(entry.task, set()).add((entry.text, entry.piece))
        if twice := [name for name, ways in pieces.items() if len(ways) > 1]:
            raise ValueError(f"{twice[0]} is listed with different pieces, or as a task and as a text; make them alike")
        return self

    @model_validator(mode="after")
    def _headline_fits(self) -> Suite:
        is_formula = not isinstance(self.headline, str)
        if is_formula:
            require_listed(self.headline_parts, {entry.task: self.metrics_of(entry.task) for entry in self.tasks})
        for i, entry in enumerate(self.tasks):
            if is_formula and entry.headline is not None:
                raise ValueError(f"tasks[{i}].headline: the formula says what enters the headline; remove this key")
            if self.in_headline(entry) and entry.higher_is_better is False:
                instead = "leave it out of the formula" if is_formula else "set headline: false"
                raise ValueError(f"tasks[{i}]: a metric where lower is better cannot enter the headline; {instead}")
        return self

    @model_validator(mode="after")
    def _backend_can(self) -> Suite:
        if self.backend == "endpoint" and self.dtype != "auto":
            raise ValueError(f"dtype: {self.dtype} is the server's to choose with backend: endpoint; remove this key")
        for i, entry in enumerate(self.tasks):
            if entry.to is not None and self.backend != "hf":
                raise ValueError(
                    f"tasks[{i}].to: a divergence is of whole distributions over the vocabulary, which backend: {self.backend} "
                    "does not give; put this entry into a suite of backend: hf"
                )
        return self

    def metrics_of(self, task: str) -> tuple[str, ...]:
        """The metrics that are listed for a task."""
        return tuple(entry.metric for entry in self.tasks if entry.task == task)

    def in_headline(self, entry: SuiteTask) -> bool:
        """Whether a metric of a task enters the headline."""
        if isinstance(self.headline, str):
            return entry.headline is not False and not entry.is_proxy
        return any(
            part.task == entry.task and entry.metric in (part.metrics or [entry.metric]) for part in self.headline
        )

    @property
    def headline_parts(self) -> tuple[DeclaredPart, ...]:
        """What the headline is the mean of, the average spelt out as well."""
        if not isinstance(self.headline, str):
            return self.headline
        return tuple(
            DeclaredPart(task=entry.task, metrics=(entry.metric,)) for entry in self.tasks if self.in_headline(entry)
        )

    @property
    def otherwise(self) -> dict[str, Any]:
        """What a recipe set otherwise than the suite's file says; see :mod:`merge_assets.evaluation.asked`."""
        return self._otherwise

    @property
    def settings(self) -> ModelSettings:
        """How models are loaded and asked."""
        return ModelSettings.model_validate({name: getattr(self, name) for name in ModelSettings.model_fields})

    @property
    def tasks_dir(self) -> Path | None:
        """Absolute path of the folder with the suite's own lm-eval tasks, or None."""
        return None if self.include_path is None else Path(os.path.realpath(self.file.parent / self.include_path))

    @property
    def others(self) -> tuple[str, ...]:
        """The models that the suite compares with, as it names them."""
        return tuple(dict.fromkeys(entry.to for entry in self.tasks if entry.to is not None))

    def text_of(self, name: str) -> SuiteTask | None:
        """The entry of a text, or None for a task of lm-eval."""
        return next((entry for entry in self.tasks if entry.task == name and entry.text is not None), None)

    def local_task(self, name: str) -> LocalTask | None:
        """The task as the suite's folder defines it, or a text; None for a task that ships with lm-eval."""
        if (entry := self.text_of(name)) is not None and entry.text is not None:
            return local_text(name, self.file.parent / entry.text, entry.piece, f"{self.where(name)}.text")
        if self.tasks_dir is None:
            return None
        if self._folder is None:
            self._folder = TaskFolder(self.tasks_dir)
        return self._folder.find(name)

    def declared(self) -> dict[str, Declared]:
        """What the suite's own task files declare, by the names of tasks, groups and tags."""
        if self.tasks_dir is None:
            return {}
        self.local_task("")
        return self._folder.declared() if self._folder else {}

    def broken_task_files(self) -> dict[Path, str]:
        """Task files of the suite's folder that cannot be read, with the reason."""
        if self.tasks_dir is None:
            return {}
        self.local_task("")
        return dict(self._folder.broken) if self._folder else {}

    def where(self, name: str) -> str:
        """``suite.yaml: tasks[3]``: where a task first stands, for errors."""
        return f"{self.file}: tasks[{[entry.task for entry in self.tasks].index(name)}]"

    def task_digest(self, name: str) -> str:
        """Digest of what defines a task: its own files, as they were when first asked for, or its name for one that ships with
        lm-eval.

        lm-eval's version is not part of it; it stands beside this digest wherever results are keyed.
        """
        if name not in self._task_digests:
            local = self.local_task(name)
            self._task_digests[name] = local.digest if local else _shipped(name)
        return self._task_digests[name]

    def require_unchanged(self, name: str) -> None:
        """See that the files of a task are those that its digest is of.

        Raises:
            EvaluationError: if they are not any more.
        """
        if self.text_of(name) is not None:
            now = self.local_task(name)
        else:
            folder = self.tasks_dir is not None and is_folder(self.tasks_dir)
            now = TaskFolder(self.tasks_dir).find(name) if folder and self.tasks_dir is not None else None
        shipped = self.task_digest(name) == _shipped(name)
        if shipped if now is None else now.digest == self.task_digest(name):
            return
        raise EvaluationError(
            f"{self.file}: the files of {name} are not what they were when its evaluation was planned; "
            "nothing was recorded, evaluate it again"
        )

    @property
    def is_local(self) -> bool:
        """Whether every task and all of its data lie in local files, so that no network is needed."""
        return all((local := self.local_task(entry.task)) is not None and local.local for entry in self.tasks)

    @property
    def digest(self) -> str:
        """sha256 of all that determines scores, computed once: content without name and description, task files.

        Whose code is run is in the key of each result: it concerns one model and no other. So is what part of the documents was
        asked.
        """
        if self._digest is None:
            beside = {"file", "name", "description", "include_path", "trust_remote_code", "confirm"}
            content = self.model_dump(mode="json", exclude=beside)
            for entry, described in zip(self.tasks, content["tasks"], strict=True):
                described["headline"] = self.in_headline(entry)
            content["digests"] = {entry.task: self.task_digest(entry.task) for entry in self.tasks}
            self._digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self._digest


def _shipped(name: str) -> str:
    """Digest of a task that ships with lm-eval."""
    return hashlib.sha256(f"lm-eval task {name}".encode()).hexdigest()


@dataclass(frozen=True)
class BrokenSuite:
    """A suite file that cannot be used; ``name`` is the file's stem."""

    name: str
    file: Path
    error: EvaluationError


class Suites(dict[str, Suite]):
    """Suites by name, sorted, and the files that are not usable.

    Attributes:
        broken: one entry per unusable file.
        texts: what they were read from.
    """

    def __init__(
        self, suites: Iterable[Suite] = (), broken: Iterable[BrokenSuite] = (), texts: Iterable[SuiteText] = ()
    ) -> None:
        super().__init__((suite.name, suite) for suite in sorted(suites, key=lambda suite: suite.name))
        self.broken = list(broken)
        self.texts = tuple(texts)

    def require(self, name: str) -> Suite:
        """The suite of that name.

        Raises:
            EvaluationError: there is none, or its file is broken.
        """
        if name in self:
            return self[name]
        for broken in self.broken:
            if broken.name == name:
                raise broken.error
        known = f"known: {', '.join(self)}" if len(self) else "no file lies in the folders of suites"
        raise EvaluationError(f"there is no suite {name!r}{did_you_mean(name, self) or '; ' + known}")


def load_suite(path: Path) -> Suite:
    """Reads one suite file.

    Raises:
        EvaluationError: the file is missing, too large, not YAML, or not a suite.
    """
    return _suite(read_suite(path))


def load_suites(folders: Sequence[Path]) -> Suites:
    """Reads every ``*.yaml`` and ``*.yml`` directly in the folders; a folder that does not exist holds none.

    Files whose name starts with ``_`` or ``.`` are skipped. Two files with one suite name are both broken. So is what cannot be
    read: whatever reading a suite raises is an error of that suite alone.
    """
    return suites_of(read_texts(folders))


def suites_of(texts: Iterable[SuiteText]) -> Suites:
    """The suites of files that were read, now or when a run was planned."""
    loaded: dict[str, list[Suite]] = {}
    broken: list[BrokenSuite] = []
    read: list[SuiteText] = []
    for text in texts:
        path = text.file
        try:
            suite = _suite(text)
            _ = suite.digest
        except EvaluationError as error:
            broken.append(BrokenSuite(path.stem, path, error))
        except OSError as error:
            broken.append(_broken(path, f"cannot be read: {error.strerror or error}"))
        except Exception as error:
            broken.append(_broken(path, f"cannot be read ({in_one_line(error)})"))
        else:
            loaded.setdefault(suite.name, []).append(suite)
            text = replace(text, task_digests=dict(suite._task_digests))
        read.append(text)
    for name, suites in loaded.items():
        if len(suites) > 1:
            files = ", ".join(str(suite.file) for suite in suites)
            message = f"the name {name!r} is used by {files}; rename all but one"
            broken += [BrokenSuite(name, s.file, EvaluationError(f"{s.file}: name: {message}")) for s in suites]
    return Suites((suites[0] for suites in loaded.values() if len(suites) == 1), broken, read)


def _suite(text: SuiteText) -> Suite:
    if text.problem is not None:
        raise EvaluationError(text.problem)
    path = text.file
    data = _parse(text.text, path)
    data.setdefault("name", path.stem)
    try:
        suite = Suite.model_validate({**data, "file": text.real})
    except ValidationError as error:
        known: dict[str, type[BaseModel]] = {
            "tasks": SuiteTask,
            "headline": DeclaredPart,
            "generation": Generation,
            "model_args": ModelArguments,
            "vllm": VllmArguments,
        }
        raise EvaluationError(explain(path, error, Suite, known)) from None
    if text.task_digests is not None:
        suite._task_digests.update(text.task_digests)
    elif suite.tasks_dir is not None and not is_folder(suite.tasks_dir):
        raise EvaluationError(f"{path}: include_path: {suite.include_path!r} is not a folder beside the suite file")
    return suite


def _broken(path: Path, message: str) -> BrokenSuite:
    return BrokenSuite(path.stem, path, EvaluationError(f"{path}: {message}"))


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        documents = parse_documents(text, path)
    except RecipeError as error:
        raise EvaluationError(str(error)) from None
    data = documents[0].data if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise EvaluationError(f"{path}: a suite is a mapping with the keys name, description, headline and tasks")
    if "file" in data:
        raise EvaluationError(f"{path}: file: unknown key; remove it")
    return data
