"""Evaluates a checkpoint on a suite, one task at a time; a finished task is never evaluated again.

This module is light: lm-eval, transformers and torch are imported by the model worker, when a task is left to evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import (
    EvaluationError,
    MergeAssetsError,
    ModelMemoryError,
    ModelWorkerError,
    SuiteError,
    in_one_line,
)
from merge_assets.evaluation.answers import Answers, AnswersFolder
from merge_assets.evaluation.collect import collect_scores
from merge_assets.evaluation.data import DataHub, FetchedData
from merge_assets.evaluation.endpoint import Endpoint, Server
from merge_assets.evaluation.failures import Failed, failed_of
from merge_assets.evaluation.result_keys import result_keys
from merge_assets.evaluation.results import ResultKey, StoredResult, TaskResult, TaskResults
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import Documents
from merge_assets.extras import require
from merge_assets.filestate import check_unchanged
from merge_assets.model_worker import Limit, Limits, ModelWorker, code_folder
from merge_assets.work import UNATTENDED, Work

HARNESS = "merge_assets.evaluation.harness"
"""The verbs that are asked here."""

_DEFAULT = Limits()
_HUB = DataHub()
_NOWHERE = Endpoint()
_STEPS = 1000
"""Progress is reported in thousandths of a task."""


@dataclass(frozen=True)
class Other:
    """A checkpoint that models are compared with.

    Attributes:
        fingerprint: of its bytes.
        directory: where it lies.
        guard: see :func:`evaluate_suite`.
    """

    fingerprint: str
    directory: Path
    guard: Callable[[], Callable[[], None]]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_suite` found.

    Attributes:
        scores: the suite's scores.
        results: the committed result behind each row that has one, in the suite's order.
        evaluated: names of the tasks that were run now and did not fail; the others were found committed.
        before: the scores of the results that were there, where every task had one and was run again.
    """

    scores: Scores
    results: tuple[StoredResult, ...]
    evaluated: tuple[str, ...]
    before: Scores | None = None

    def write(self, directory: Path) -> None:
        """Writes scores, task results and samples into ``directory`` (see :meth:`Scores.write`)."""
        unique = {stored.result.key.digest: stored for stored in self.results}
        self.scores.write(directory, list(unique.values()))


def evaluate_suite(
    model_dir: Path,
    suite: Suite,
    *,
    results: TaskResults,
    title: str | None = None,
    fingerprint: str | None = None,
    guard: Callable[[], Callable[[], None]] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    batch_size: int | str | None = None,
    limit: int | float | None = None,
    refresh: bool = False,
    trust_remote_code: bool = False,
    hub: DataHub = _HUB,
    endpoint: Endpoint = _NOWHERE,
    limits: Limits = _DEFAULT,
    index: Path | None = None,
    failed: Callable[[Scores], None] | None = None,
    documents: Documents = "all",
    others: Mapping[str, Other] | None = None,
    fetched: FetchedData | None = None,
    work: Work = UNATTENDED,
) -> Evaluation:
    """Evaluates a checkpoint on every task of a suite that has no committed result yet.

    A task that fails does not keep the others from being tried: the scores say why it has no value.

    Args:
        model_dir: directory that ``from_pretrained`` opens.
        suite: what to evaluate.
        results: where finished tasks are committed and found again.
        title: name of the model in the scores; the directory's name if None.
        fingerprint: the checkpoint's fingerprint; computed from its bytes if None.
        guard: with a fingerprint, looks whether the checkpoint is that, before it is loaded; what it returns raises if the
            checkpoint is not that any more, and is called before a result is kept.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
        dtype: dtype in which the weights are loaded; overrides the suite's.
        batch_size: sequences per forward pass or "auto"; overrides the suite's.
        limit: caps the documents of every task; for a quick look.
        refresh: evaluate every task, and put what comes out in the place of what is committed.
        trust_remote_code: whether code that comes with the checkpoint is run where it asks for that, in the process that loads
            it, which has no network.
        hub: from which data of tasks are fetched.
        endpoint: the server that is asked where the suite's backend is one.
        limits: of the process that loads the checkpoint.
        index: the file with the names of lm-eval's own tasks, where that is kept.
        failed: gets the scores where every task failed, before the error.
        documents: of each task: all, those that a search may see, or those that it never does, as ``confirm`` has it.
        others: the models that the suite compares with, by how it names them; all of them.
        fetched: what other evaluations have fetched, and what this one fetches.
        work: told thousandths of a task done, the total, and the task at work with its requests; asked several times a second.

    Raises:
        InputError: the checkpoint changed while it was evaluated; nothing of that task is kept.
        SuiteError: a task is unknown, which is found before the first is evaluated, or needs other settings, or has no such
            metric. Tasks committed before stay so.
        EvaluationError: every task failed, or one that was to be measured again; this is why the first did.
        ModelMemoryError: the same, because the process took more memory than it may.
        Stopped: on request.
    """
    if fingerprint is None:
        digest = digest_checkpoint(open_checkpoint(model_dir), work=work)
        fingerprint = digest.fingerprint
        states = {str(model_dir / name): state for name, state in digest.states.items()}
        guard = partial(partial, check_unchanged, states)
    if documents != "all" and suite.confirm is None:
        raise SuiteError(
            f"{suite.file}: confirm: is not set, so there are no documents for {documents!r}; set a number"
        )
    others = others or {}
    keys = result_keys(
        suite,
        fingerprint,
        dtype=dtype,
        batch_size=batch_size,
        limit=limit,
        trust_remote_code=trust_remote_code,
        documents=documents,
        others={name: other.fingerprint for name, other in others.items()},
    )
    unique = list(dict.fromkeys(keys))
    committed = {key: stored for key in unique if (stored := results.find(key)) is not None}
    found = {} if refresh else dict(committed)
    missing = [key for key in unique if key not in found]
    total = _STEPS * len(unique)

    def scores_of(stored: Mapping[ResultKey, StoredResult], problems: Mapping[ResultKey, Failed]) -> Scores:
        ordered = [stored[key].result if key in stored else problems[key] for key in keys]
        return collect_scores(suite, ordered, model=title or model_dir.name, fingerprint=fingerprint)

    before = scores_of(committed, {}) if refresh and len(committed) == len(unique) else None

    errors: dict[ResultKey, MergeAssetsError] = {}
    if missing:
        require("lm_eval", "torch", "transformers")
        guards = [guard, *(other.guard for other in others.values())]
        unchanged = [one() for one in guards if one is not None]
        evaluator = _Evaluator(
            model_dir, suite, device=device, hub=hub, limits=limits, answers=results.answers, index=index
        )
        evaluator.others = {other.fingerprint: str(other.directory.resolve()) for other in others.values()}
        evaluator.fetch(missing, FetchedData() if fetched is None else fetched, work)
        with (
            ModelWorker(HARNESS, limits, loopback=suite.backend == "vllm") as worker,
            code_folder(trust_remote_code) as code,
            Server(endpoint, suite, model_dir.resolve(), title or model_dir.name, limits) as server,
        ):
            evaluator.server = server
            evaluator.begin(worker, missing, code, work)
            for key in missing:
                suite.require_unchanged(key.task)
                done = _STEPS * (len(found) + len(errors))
                number = unique.index(key) + 1

                def report(
                    requests: int, of: int, what: str, done: int = done, task: str = key.task, number: int = number
                ) -> None:
                    label = f"{task} ({number}/{len(unique)}): {what} {requests}/{of}"
                    work.report(done + _STEPS * min(requests, of) // max(of, 1), total, label)

                try:
                    result, samples = evaluator.run(worker, key, work.reporting(report), again=refresh)
                except SuiteError:
                    raise
                except (EvaluationError, ModelMemoryError) as error:
                    if refresh and key in committed:  # what is there is better than nothing
                        raise
                    errors[key] = error
                    continue
                for check in unchanged:
                    check()
                suite.require_unchanged(key.task)
                found[key] = results.commit(result, samples, replace=refresh)
    work.report(total, total, f"{suite.name}: {len(unique)} tasks")

    problems = {key: failed_of(error, suite, key.task, model_dir) for key, error in errors.items()}
    scores = scores_of(found, problems)
    if not found:
        if failed is not None:
            failed(scores)
        raise next(iter(errors.values()))
    ordered = tuple(found[key] for key in keys if key in found)
    evaluated = tuple(key.task for key in missing if key in found)
    return Evaluation(scores, ordered, evaluated, before)


class _Evaluator:
    """What is asked of the model worker to evaluate a checkpoint. Its errors are those of :func:`evaluate_suite`."""

    def __init__(
        self,
        model_dir: Path,
        suite: Suite,
        *,
        device: str,
        hub: DataHub,
        limits: Limits,
        answers: AnswersFolder,
        index: Path | None,
    ) -> None:
        self._model_dir = str(model_dir.resolve())
        self._suite = suite
        self._described = {
            "suite": suite.model_dump(mode="json"),
            "suite_file": str(suite.file),
            "index": None if index is None else str(index),
        }
        self._device = device
        self._limits = limits
        self._hub = hub
        self._answers = answers
        self.others: Mapping[str, str] = {}
        self.server: Server | None = None
        self._begun = False
        self._unloadable: MergeAssetsError | None = None
        self._fetched: dict[str, Any] = {}
        self._unfetched: dict[str, str] = {}

    def fetch(self, keys: Sequence[ResultKey], fetched: FetchedData, work: Work) -> None:
        """Bring the data of tasks that are not local into the caches, in a process that knows no checkpoint: the one that
        loads the model has no network."""
        wanted = [key for key in keys if not ((local := self._suite.local_task(key.task)) and local.local)]
        self._fetched = {key.task: known for key in wanted if (known := fetched.find(key)) is not None}
        wanted = [key for key in wanted if key.task not in self._fetched]
        if not wanted:
            return
        with ModelWorker(HARNESS, self._limits, offline=False) as worker:
            for key in wanted:
                try:
                    self._fetched[key.task] = worker.ask(
                        "fetch",
                        {**self._described, "task": key.task, "revision": key.revision, "hub": asdict(self._hub)},
                        limit=None,
                        work=work.silent(),
                        doing=f"fetching the data of {key.task}",
                    )
                    fetched.keep(key, self._fetched[key.task])
                except ModelWorkerError as error:  # of no matter where they are in the caches already
                    self._unfetched[key.task] = str(error)

    def begin(self, worker: ModelWorker, keys: Sequence[ResultKey], code: str | None, work: Work) -> None:
        """Say what is to be evaluated, and see that there are such tasks."""
        self._code = code
        self._begin(worker, keys[0], work)
        self._ask(worker, "find", {"keys": [key.model_dump(mode="json") for key in keys]}, keys[0], work)

    def _begin(self, worker: ModelWorker, key: ResultKey, work: Work) -> None:
        options = {
            "device": self._device,
            "dtype": key.dtype,
            "batch_size": key.batch_size,
            "code": self._code,
            "memory": self._limits.bytes_of_memory(),
        }
        self._ask(worker, "begin", {"model_dir": self._model_dir, **self._described, **options}, key, work)
        self._begun = True

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
            self._ask(worker, "prepare", {**asked, "fetched": self._fetched.get(key.task, [])}, key, work)
        except EvaluationError as error:
            if key.task in self._unfetched and not isinstance(error, SuiteError):
                # Without them it could only fail, and this is why.
                where, why = self._suite.where(key.task), self._unfetched[key.task]
                raise EvaluationError(f"{where}: the data of {key.task} cannot be fetched: {why}") from None
            raise
        try:
            other = None if key.to is None else self.others[key.to]
            served = self.server.open(work) if self.server and self._suite.backend == "endpoint" else None
            circumstances = self._ask(worker, "load", {"other": other, "served": served}, key, work, "load")
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
                reply=None if self.server is None else partial(self.server.reply, work=work),
            )
        except ModelMemoryError as error:
            self._begun = False
            error.prefix(self._where(key))
            raise
        except ModelWorkerError as error:
            self._begun = self._begun and error.answered
            for kind in (EvaluationError, SuiteError):
                if error.raised == kind.__name__:
                    again = kind(str(error))
                    again.may_pass = self.server is not None and self.server.may_pass
                    raise again from None
            raise self._failed(key, str(error)) from None

    def _failed(self, key: ResultKey, why: str) -> EvaluationError:
        return EvaluationError(f"{self._where(key)}{why}")

    def _where(self, key: ResultKey) -> str:
        return f"{self._suite.where(key.task)}: {key.task} on {self._model_dir} "


def _answering(key: ResultKey) -> dict[str, Any]:
    """What of a key an answer depends on, besides what is asked."""
    included = {"evaluation": True, "model": True, "dtype": True, "trust_remote_code": True}
    return key.model_dump(mode="json", include=included) | {"arguments": key.settings.arguments(), "to": key.to}
