"""What is asked of the model worker to evaluate a checkpoint, one task after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from merge_assets.errors import (
    EvaluationError,
    MergeAssetsError,
    ModelMemoryError,
    ModelWorkerError,
    SuiteError,
    in_one_line,
)
from merge_assets.evaluation.answers import Answers, AnswersFolder
from merge_assets.evaluation.endpoint import Server
from merge_assets.evaluation.results import ResultKey, TaskResult
from merge_assets.evaluation.session import LostModelError, Sitting
from merge_assets.evaluation.suite import Suite
from merge_assets.model_worker import Limit, Limits, ModelWorker
from merge_assets.work import Work


@dataclass(frozen=True)
class BroughtData:
    """What came of bringing the data of tasks that are not local, by their names.

    Attributes:
        fetched: where they lie.
        failed: why they could not be had; of no matter where they are in the caches already.
    """

    fetched: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


class Evaluator:
    """A checkpoint that is evaluated. Its errors are those of :func:`merge_assets.evaluation.runner.evaluate_suite`.

    Args:
        model_dir: of the checkpoint.
        suite: on which it is evaluated.
        device: where it is loaded.
        limits: of the worker.
        answers: where the answers of all models are kept.
        described: the suite as verbs take it.
        others: directories of the models that are compared with, by fingerprint.
        brought: the data of tasks.
        server: which is asked, for backends that are one.
        code: an empty folder for the checkpoint's own code, if that may be run.
        sitting: of a session, if it is one.
    """

    def __init__(
        self,
        model_dir: Path,
        suite: Suite,
        *,
        device: str,
        limits: Limits,
        answers: AnswersFolder,
        described: Mapping[str, Any],
        others: Mapping[str, str],
        brought: BroughtData,
        server: Server,
        code: str | None,
        sitting: Sitting | None,
    ) -> None:
        self._model_dir = str(model_dir.resolve())
        self._suite = suite
        self._described = described
        self._device = device
        self._limits = limits
        self._answers = answers
        self._others = others
        self._brought = brought
        self._server = server
        self._code = code
        self._sitting = sitting
        self._begun = False
        self._stays = False
        self._unloadable: MergeAssetsError | None = None

    def begin(self, worker: ModelWorker, keys: Sequence[ResultKey], work: Work) -> None:
        """Say what is to be evaluated, and see that there are such tasks.

        Raises:
            LostModelError: a model that is loaded was to be made another one, and cannot.
        """
        if self._sitting is not None and self._sitting.is_loaded:
            self._rewrite(worker, self._sitting, keys[0], work)
        else:
            self._begin(worker, keys[0], work)
        self._ask(worker, "find", {"keys": [key.model_dump(mode="json") for key in keys]}, keys[0], work)

    def _rewrite(self, worker: ModelWorker, sitting: Sitting, key: ResultKey, work: Work) -> None:
        sitting.session.model = None
        file = None if sitting.changed is None else str(sitting.changed)
        try:
            asked = {"file": file, "model_dir": self._model_dir}
            worker.ask("rewrite", asked, limit="load", work=work, doing=f"evaluating {key.task}")
        except ModelWorkerError as error:
            if not error.answered:
                sitting.session.lose()
            why = "cannot be rewritten:" if error.answered else "was lost: its process"
            raise LostModelError(f"the loaded model {why} {error}") from None
        sitting.session.model = key.model
        self._begun = True

    def _begin(self, worker: ModelWorker, key: ResultKey, work: Work) -> None:
        options = {
            "device": self._device,
            "dtype": key.dtype,
            "batch_size": key.batch_size,
            "code": self._code,
            "memory": self._limits.bytes_of_memory(),
            "like": None,
        }
        if self._sitting is not None:
            self._sitting.session.begin(self._sitting.like)
            options["like"] = self._sitting.like
        self._ask(worker, "begin", {"model_dir": self._model_dir, **self._described, **options}, key, work)
        self._begun = True

    def require_unchanged(self, key: ResultKey, *, asked: bool = False) -> None:
        """See that the files of a task are what its digest is of, unless it stays loaded as they were.

        Args:
            key: of the result.
            asked: whether the task was run just now.

        Raises:
            EvaluationError: if they are not.
        """
        task = key.task, key.task_digest, key.shots, key.revision, key.seed
        if self._sitting is not None and task in self._sitting.session.tasks:
            return
        self._suite.require_unchanged(key.task)
        if self._sitting is not None and asked and self._stays:
            self._sitting.session.tasks.add(task)

    def run(
        self, worker: ModelWorker, key: ResultKey, work: Work, *, again: bool
    ) -> tuple[TaskResult, dict[str, list[dict[str, Any]]]]:
        """The result of one task, and per task name the logged samples.

        Args:
            worker: that has begun.
            key: of the result.
            work: told of it.
            again: whether also those answers are asked for that are known.
        """
        if self._unloadable is not None:
            raise self._unloadable
        if not self._begun:
            self._begin(worker, key, work)
        asked = {"key": key.model_dump(mode="json")}
        try:
            fetched = self._brought.fetched.get(key.task, [])
            self._stays = bool(self._ask(worker, "prepare", {**asked, "fetched": fetched}, key, work))
        except EvaluationError as error:
            if key.task in self._brought.failed and not isinstance(error, SuiteError):
                # Without them it could only fail, and this is why.
                where, why = self._suite.where(key.task), self._brought.failed[key.task]
                raise EvaluationError(f"{where}: the data of {key.task} cannot be fetched: {why}") from None
            raise
        try:
            other = None if key.to is None else self._others[key.to]
            served = self._server.open(work) if self._suite.backend == "endpoint" else None
            circumstances = self._ask(worker, "load", {"other": other, "served": served}, key, work, "load")
            if self._sitting is not None:
                self._sitting.session.model = key.model
        except (EvaluationError, ModelMemoryError) as error:
            if key.to is None:  # else it may be the other model, or that there is no room for two
                self._unloadable = error
            raise
        samples: dict[str, list[dict[str, Any]]] = {}
        try:
            answers = self._answers.of(key.model, {"key": _answering(key), **circumstances})
            kept = Answers(answers)

            def take(item: Any) -> None:
                what, name, content = item
                if what == "answers":
                    kept.add(name, content)
                else:
                    samples.setdefault(name, []).append(content)

            known = None if again else str(answers)
            result = TaskResult.of(self._ask(worker, "run", {**asked, "answers": known}, key, work, each=take))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise self._failed(key, f"answered with what is no result ({in_one_line(error)})") from None
        if result.key != key:
            raise self._failed(key, "answered with another task's result")
        return result, samples

    def _ask(
        self,
        worker: ModelWorker,
        verb: str,
        arguments: Mapping[str, Any],
        key: ResultKey,
        work: Work,
        limit: Limit = "silence",
        each: Callable[[Any], None] | None = None,
    ) -> Any:
        try:
            return worker.ask(
                verb,
                arguments,
                limit=limit,
                work=work,
                doing=f"evaluating {key.task}",
                each=each,
                reply=partial(self._server.reply, work=work),
            )
        except ModelMemoryError as error:
            self._ended(error)
            error.prefix(self._where(key))
            raise
        except ModelWorkerError as error:
            if not error.answered:
                self._ended(error)
            for kind in (EvaluationError, SuiteError):
                if error.raised == kind.__name__:
                    again = kind(str(error))
                    again.may_pass = self._server.may_pass
                    raise again from None
            raise self._failed(key, str(error)) from None

    def _ended(self, error: MergeAssetsError) -> None:
        """The worker has ended, and what it had loaded is gone.

        Raises:
            LostModelError: which can be had from nowhere.
        """
        self._begun = False
        if self._sitting is not None:
            self._sitting.session.lose()
            if self._sitting.is_loaded:
                raise LostModelError(f"the loaded model was lost: its process {error}") from None

    def _failed(self, key: ResultKey, why: str) -> EvaluationError:
        return EvaluationError(f"{self._where(key)}{why}")

    def _where(self, key: ResultKey) -> str:
        return f"{self._suite.where(key.task)}: {key.task} on {self._model_dir} "


def _answering(key: ResultKey) -> dict[str, Any]:
    """What of a key an answer depends on, besides what is asked."""
    included = {"evaluation": True, "model": True, "dtype": True, "trust_remote_code": True}
    return key.model_dump(mode="json", include=included) | {"arguments": key.settings.arguments(), "to": key.to}
