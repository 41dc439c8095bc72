"""The keys of a suite's results, without lm-eval and torch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from merge_assets.evaluation.results import EVALUATION_VERSION, ResultKey, TaskResults
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.suite_task import Documents


def result_keys(
    suite: Suite,
    fingerprint: str,
    *,
    dtype: str | None = None,
    batch_size: int | str | None = None,
    limit: int | float | None = None,
    lm_eval: str | None = None,
    trust_remote_code: bool = False,
    documents: Documents = "all",
    others: Mapping[str, str] | None = None,
) -> tuple[ResultKey, ...]:
    """The key of each task's result, in the suite's order; imports neither torch nor lm-eval.

    Args:
        suite: the suite.
        fingerprint: the checkpoint's fingerprint.
        dtype: dtype in which the weights are loaded; overrides the suite's.
        batch_size: overrides the suite's.
        limit: caps the documents of every task, whatever the suite says; for a quick look.
        lm_eval: version of lm-eval; default: the one that is installed.
        trust_remote_code: whether code that comes with the checkpoint is run where it asks for that.
        documents: of each task: all, those that a search may see, or those that it never does.
        others: fingerprints of the models that the suite compares with, by how it names them.
    """
    settings = suite.settings
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
            trust_remote_code=trust_remote_code,
            settings=settings,
            documents=documents,
            confirm=None if documents == "all" else suite.confirm,
            to=None if entry.to is None else (others or {}).get(entry.to, ""),
        )
        for entry in suite.tasks
    )


def pending_tasks(keys: Sequence[ResultKey], results: TaskResults) -> list[str]:
    """Names of the tasks without a committed result."""
    return [key.task for key in dict.fromkeys(keys) if results.find(key) is None]
