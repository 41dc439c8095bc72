"""Scores of models as an evaluation leaves them in the store; the numbers are given, so that no model is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from merge_assets import api
from merge_assets.evaluation.result_keys import result_keys
from merge_assets.evaluation.results import SampleCount, TaskResult, TaskResults
from merge_assets.reference import ModelReference
from merge_assets.workspace import Models
from tests.sample_support import lines
from tests.synthetic import write_llama

SUITE = "tasks: [{task: arc_easy, metric: acc}]\n"
TASK = "arc_easy"


def write_inputs(root: Path) -> None:
    """The models ``a`` and ``b``, the suite ``demo``, and a folder for recipes."""
    for seed, name in enumerate("ab"):
        write_llama(root / name, 1, seed=seed)
    for folder in ("recipes", "suites"):
        (root / folder).mkdir()
    (root / "suites" / "demo.yaml").write_text(SUITE)


def answered(space: api.Workspace, model: str, answers: Sequence[float], suite: str = "demo") -> api.Scored:
    """The same with right and wrong answers to documents, whose mean is the value."""
    return evaluated(space, model, sum(answers) / len(answers), suite, answers)


def evaluated(
    space: api.Workspace, model: str, value: float, suite: str = "demo", answers: Sequence[float] = ()
) -> api.Scored:
    """Score a model of which each task of a suite is found finished, with this value.

    Args:
        space: the project; the suites are those of :data:`SUITE`.
        model: what to score, as it is now.
        value: of the metric ``acc``.
        suite: name of the suite.
        answers: right and wrong ones to documents; none are kept by default.
    """
    samples = [json.loads(line) for line in lines(TASK, "acc", answers)]
    reference = ModelReference.parse(model)
    fingerprint = Models(space).fetch(reference).fingerprint
    assert fingerprint is not None
    for key in result_keys(space.suite_of(suite, space.book.resolve(reference)), fingerprint):
        TaskResults(space.cache / "evaluations").commit(_found(key, value), {TASK: samples})
    return api.score(space, reference, suite)


def _found(key: object, value: float) -> TaskResult:
    return TaskResult(
        key=key,
        metrics={TASK: {"acc,none": value, "acc_stderr,none": 0.01}},
        higher_is_better={TASK: {"acc": True}},
        shots={TASK: 0},
        samples={TASK: SampleCount(original=100, effective=100)},
        task_versions={TASK: "1.0"},
        seeds={"python": 0, "numpy": 1, "torch": 1, "fewshot": 1},
        versions={"lm_eval": "0.4"},
        device="cpu",
        model_dtype="float32",
        command=["lm_eval"],
        seconds=1.0,
        created="2026-01-01T00:00:00+00:00",
    )
