"""Models with answers to documents, made up, as lm-eval logs them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from merge_assets.evaluation.results import Circumstances
from merge_assets.evaluation.samples import SuiteSamples, read_samples
from merge_assets.evaluation.scores import Scores
from tests.leaderboard_support import row, scores

Lines = list[bytes]


def result_of(task: str) -> str:
    """The digest of the result of a task."""
    return hashlib.sha256(task.encode()).hexdigest()


def lines(task: str, metric: str, values: Sequence[Any], *, documents: Sequence[str] | None = None) -> Lines:
    """What lm-eval logs of each document that matters here.

    Args:
        task: its name.
        metric: with its filter, if it is not "none".
        values: of each document, as logged.
        documents: what tells each, by default its number.
    """
    name, _, kind = metric.partition(",")
    told = documents or [str(number) for number in range(len(values))]
    return [
        json.dumps(
            {"doc_id": 0, "filter": kind or "none", "metrics": [name], "doc_hash": f"{task} {one}", "target_hash": "t"}
            | {name: value}
        ).encode()
        for one, value in zip(told, values, strict=True)
    ]


class Answered:
    """Models with their scores and samples.

    Attributes:
        samples: of each, by the id of its scores.
    """

    def __init__(self) -> None:
        self.samples: dict[int, SuiteSamples] = {}

    def model(
        self, name: str, answers: Mapping[str, Sequence[float]], *, suite: str = "demo", data: str = "d"
    ) -> Scores:
        """A model whose answers to each task are right or wrong; the headline is the mean of the tasks."""
        rows = [row(task, "acc", float(np.mean(values)), n=len(values)) for task, values in answers.items()]
        return self.add(
            scores(name, *rows, suite=suite), {task: lines(task, "acc", each) for task, each in answers.items()}, data
        )

    def perplexity(self, name: str, answers: Sequence[tuple[float, int]], *, suite: str = "demo") -> Scores:
        """A model with a log-likelihood and bytes of each document."""
        value = math.exp(-sum(ll for ll, _ in answers) / sum(size for _, size in answers))
        told = row("text", "byte_perplexity", value, n=len(answers), higher=False, headline=False)
        return self.add(
            scores(name, told, suite=suite),
            {"text": lines("text", "byte_perplexity", [list(each) for each in answers])},
        )

    def add(self, made: Scores, logged: Mapping[str, Lines], data: str = "d") -> Scores:
        """Scores whose rows are each of one task with these samples."""
        rows = [
            each.model_copy(
                update={"result": result_of(each.task), "made": Circumstances(data={each.task: f"{data} {each.task}"})}
            )
            for each in made.tasks
        ]
        made = made.model_copy(update={"tasks": tuple(rows)})
        self.samples[id(made)] = {result_of(task)[:8]: {task: read_samples(each)} for task, each in logged.items()}
        self._kept = [*getattr(self, "_kept", []), made]  # so that no other has its id
        return made

    def __call__(self, of: Scores) -> SuiteSamples:
        return self.samples.get(id(of), {})
