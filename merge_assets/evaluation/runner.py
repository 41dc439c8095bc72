"""Evaluates a checkpoint on a suite, one task at a time; a finished task is never evaluated again.

This module is light: lm-eval, transformers and torch are imported only when a task is left to evaluate.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.evaluation.results import EVALUATION_VERSION, ResultKey, StoredResult, TaskResults
from merge_assets.evaluation.scores import Scores, collect_scores
from merge_assets.evaluation.suite import Suite
from merge_assets.filestate import check_unchanged
from merge_assets.work import UNATTENDED, Work

_STEPS = 1000
"""Progress is reported in thousandths of a task."""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_suite` found.

    Attributes:
        scores: the suite's scores.
        results: the committed result behind each row, in the suite's order.
        evaluated: names of the tasks that were run now; the others were found committed.
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


def result_keys(
    suite: Suite,
    fingerprint: str,
    *,
    dtype: str | None = None,
    batch_size: int | str | None = None,
    limit: int | float | None = None,
    lm_eval: str | None = None,
) -> tuple[ResultKey, ...]:
    """The key of each task's result, in the suite's order; imports neither torch nor lm-eval.

    Args:
        suite: the suite.
        fingerprint: the checkpoint's fingerprint.
        dtype: dtype in which the weights are loaded; overrides the suite's.
        batch_size: overrides the suite's.
        limit: caps the documents of every task, whatever the suite says; for a quick look.
        lm_eval: version of lm-eval; default: the one that is installed.
    """
    version = lm_eval or importlib.metadata.version("lm_eval")
    return tuple(
        ResultKey(
            evaluation=EVALUATION_VERSION,
            model=fingerprint,
            task=entry.task,
            task_digest=suite.task_digest(entry.task),
            shots=entry.shots,
            limit=entry.limit if limit is None else limit,
            seed=suite.seed,
            dtype=dtype or suite.dtype,
            batch_size=batch_size or suite.batch_size or 1,
            lm_eval=version,
            revision=entry.revision,
        )
        for entry in suite.tasks
    )


def pending_tasks(keys: Sequence[ResultKey], results: TaskResults) -> list[str]:
    """Names of the tasks without a committed result."""
    return [key.task for key in dict.fromkeys(keys) if results.find(key) is None]


def evaluate_suite(
    model_dir: Path,
    suite: Suite,
    *,
    results: TaskResults,
    title: str | None = None,
    fingerprint: str | None = None,
    unchanged: Callable[[], None] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    batch_size: int | str | None = None,
    limit: int | float | None = None,
    refresh: bool = False,
    work: Work = UNATTENDED,
) -> Evaluation:
    """Evaluates a checkpoint on every task of a suite that has no committed result yet.

    Args:
        model_dir: directory that ``from_pretrained`` opens.
        suite: what to evaluate.
        results: where finished tasks are committed and found again.
        title: name of the model in the scores; the directory's name if None.
        fingerprint: the checkpoint's fingerprint; computed from its bytes if None.
        unchanged: with a fingerprint, raises if the checkpoint is not that any more; called before a result is kept.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
        dtype: dtype in which the weights are loaded; overrides the suite's.
        batch_size: sequences per forward pass or "auto"; overrides the suite's.
        limit: caps the documents of every task; for a quick look.
        refresh: evaluate every task, and put what comes out in the place of what is committed.
        work: told thousandths of a task done, the total, and the task at work with its requests; asked at least once per
            forward pass of a decoder layer and per prompt built.

    Raises:
        InputError: the checkpoint changed while it was evaluated; nothing of that task is kept.
        EvaluationError: a task is unknown, needs other settings, or fails. Tasks committed before stay so.
        Stopped: on request.
    """
    if fingerprint is None:
        digest = digest_checkpoint(open_checkpoint(model_dir), work=work)
        fingerprint = digest.fingerprint
        unchanged = partial(check_unchanged, {str(model_dir / name): state for name, state in digest.states.items()})
    keys = result_keys(suite, fingerprint, dtype=dtype, batch_size=batch_size, limit=limit)
    unique = list(dict.fromkeys(keys))
    committed = {key: stored for key in unique if (stored := results.find(key)) is not None}
    found = {} if refresh else dict(committed)
    missing = [key for key in unique if key not in found]
    total = _STEPS * len(unique)

    def scores_of(stored: Mapping[ResultKey, StoredResult]) -> Scores:
        ordered = [stored[key].result for key in keys]
        return collect_scores(suite, ordered, model=title or model_dir.name, fingerprint=fingerprint)

    before = scores_of(committed) if refresh and len(committed) == len(unique) else None

    if missing:
        from merge_assets.evaluation.harness import Harness

        with Harness(model_dir, suite, device=device, dtype=keys[0].dtype, batch_size=keys[0].batch_size) as harness:
            for key in missing:
                done = _STEPS * len(found)
                number = unique.index(key) + 1

                def report(
                    requests: int, of: int, what: str, done: int = done, task: str = key.task, number: int = number
                ) -> None:
                    label = f"{task} ({number}/{len(unique)}): {what} {requests}/{of}"
                    work.report(done + _STEPS * min(requests, of) // max(of, 1), total, label)

                result, samples = harness.run(key, work.reporting(report))
                if unchanged is not None:
                    unchanged()
                suite.require_unchanged(key.task)
                found[key] = results.commit(result, samples, replace=refresh)
    work.report(total, total, f"{suite.name}: {len(unique)} tasks")

    ordered = tuple(found[key] for key in keys)
    return Evaluation(scores_of(found), ordered, tuple(key.task for key in missing), before)
