"""Evaluates a checkpoint on a suite, one task at a time; a finished task is never evaluated again.

This module is light: lm-eval, transformers and torch are imported by the model worker, when a task is left to evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
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
)
from merge_assets.evaluation.collect import collect_scores
from merge_assets.evaluation.data import DataHub, FetchedData
from merge_assets.evaluation.endpoint import Endpoint, Server
from merge_assets.evaluation.evaluator import BroughtData, Evaluator
from merge_assets.evaluation.failures import Failed, failed_of
from merge_assets.evaluation.result_keys import result_keys
from merge_assets.evaluation.results import ResultKey, StoredResult, TaskResults
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.session import Session, Sitting
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import Documents
from merge_assets.extras import require
from merge_assets.filestate import check_unchanged
from merge_assets.model_worker import Limits, ModelWorker, code_folder
from merge_assets.work import UNATTENDED, Work

HARNESS = "merge_assets.evaluation.harness"
"""The verbs that are asked here."""

_FETCH = "merge_assets.evaluation.fetch"

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
    sitting: Sitting | None = None,
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
        sitting: of a session, which has the model worker; without one there is a worker for this evaluation. Servers, vLLM and
            checkpoints whose code is run have one of their own in any case.
        work: told thousandths of a task done, the total, and the task at work with its requests; asked several times a second.

    Raises:
        InputError: the checkpoint changed while it was evaluated; nothing of that task is kept.
        SuiteError: a task is unknown, which is found before the first is evaluated, or needs other settings, or has no such
            metric. Tasks committed before stay so.
        EvaluationError: every task failed, or one that was to be measured again; this is why the first did.
        ModelMemoryError: the same, because the process took more memory than it may.
        LostModelError: the model of a sitting that was loaded is there no more; what was finished is kept.
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
        described = {
            "suite": suite.model_dump(mode="json"),
            "suite_file": str(suite.file),
            "index": None if index is None else str(index),
        }
        brought = _brought(suite, described, missing, hub, limits, FetchedData() if fetched is None else fetched, work)
        if trust_remote_code or suite.backend != "hf":
            sitting = None
        with ExitStack() as stack:
            if sitting is None:
                worker = stack.enter_context(ModelWorker(HARNESS, limits, loopback=suite.backend == "vllm"))
            else:
                worker = sitting.session.worker
            evaluator = Evaluator(
                model_dir,
                suite,
                device=device,
                limits=limits,
                answers=results.answers,
                described=described,
                others={other.fingerprint: str(other.directory.resolve()) for other in others.values()},
                brought=brought,
                code=stack.enter_context(code_folder(trust_remote_code)),
                server=stack.enter_context(
                    Server(endpoint, suite, model_dir.resolve(), title or model_dir.name, limits)
                ),
                sitting=sitting,
            )
            evaluator.begin(worker, missing, work)
            for key in missing:
                evaluator.require_unchanged(key)
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
                evaluator.require_unchanged(key, asked=True)
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


def open_session(limits: Limits = _DEFAULT) -> Session:
    """A session, for a ``with`` block; its process is started when it is first asked.

    Args:
        limits: of that process.
    """
    return Session(ModelWorker(HARNESS, limits))


def _brought(
    suite: Suite,
    described: Mapping[str, Any],
    keys: Sequence[ResultKey],
    hub: DataHub,
    limits: Limits,
    known: FetchedData,
    work: Work,
) -> BroughtData:
    """Bring the data of tasks that are not local into the caches, in a process that knows no checkpoint: the one that loads
    the model has no network."""
    wanted = [key for key in keys if not ((local := suite.local_task(key.task)) and local.local)]
    fetched: dict[str, Any] = {key.task: found for key in wanted if (found := known.find(key)) is not None}
    failed: dict[str, str] = {}
    wanted = [key for key in wanted if key.task not in fetched]
    if not wanted:
        return BroughtData(fetched)
    with ModelWorker(_FETCH, limits, offline=False) as worker:
        for key in wanted:
            try:
                fetched[key.task] = worker.ask(
                    "fetch",
                    {**described, "task": key.task, "revision": key.revision, "hub": asdict(hub)},
                    limit=None,
                    work=work.silent(),
                    doing=f"fetching the data of {key.task}",
                )
                known.keep(key, fetched[key.task])
            except ModelWorkerError as error:
                failed[key.task] = str(error)
    return BroughtData(fetched, failed)
