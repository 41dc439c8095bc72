"""A leaderboard with all that can be looked at: a group, versions, published values, and samples with texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from merge_assets.evaluation.headline import Headline, HeadlinePart, Term
from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry, Parent, Past
from merge_assets.evaluation.results import Circumstances
from merge_assets.evaluation.samples import SuiteSamples, read_samples
from merge_assets.evaluation.scores import Scores
from merge_assets.recipe import Published
from tests.leaderboard_support import row, scores
from tests.sample_support import result_of

SUBJECTS = ("exam_anatomy", "exam_law", "exam_physics")
HOSTILE = "</pre></script><i onclick='x'>\u202e&amp;"


def chosen(task: str, number: int, value: float, words: str = "") -> dict[str, Any]:
    """A document of multiple choice, as lm-eval logs it, of which the first of two options is right."""
    lls = (-1.0, -2.0) if value else (-2.0, -1.0)
    context = f"Question {number} of {task}{words}:"
    return {
        "doc_id": number,
        "target": 0,
        "arguments": [[context, f" right {number}"], [context, f" wrong {number}"]],
        "resps": [[[str(ll), "False"]] for ll in lls],
        "filtered_resps": [[str(ll), "False"] for ll in lls],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"{task} {number}",
        "target_hash": "0",
        "acc": value,
    }


class Exam:
    """Models whose answers to the tasks of one group and one task are made up, with what lm-eval would log of them."""

    def __init__(self, words: str = "") -> None:
        self.logged: dict[int, dict[str, list[bytes]]] = {}
        self.samples: dict[int, SuiteSamples] = {}
        self._words = words

    def model(self, name: str, answers: Mapping[str, Sequence[float]], fingerprint: str = "f") -> Scores:
        """A model that answers each of :data:`SUBJECTS`, which are the group ``exam``, and ``quiz``."""
        subjects = [value for subject in SUBJECTS for value in answers[subject]]
        rows = [
            row("exam", "acc", float(np.mean(subjects)), 0.03, n=len(subjects)),
            row("quiz", "acc", float(np.mean(answers["quiz"])), 0.04, n=len(answers["quiz"])),
        ]
        members = {"exam": SUBJECTS, "quiz": ("quiz",)}
        rows = [
            one.model_copy(
                update={
                    "result": result_of(one.task),
                    "made": Circumstances(data=dict.fromkeys(members[one.task], "d")),
                    "seconds": 10.0 + len(name),
                }
            )
            for one in rows
        ]
        terms = [Term(task=one.task, metric="acc", value=one.value) for one in rows]
        formula = Headline(parts=tuple(HeadlinePart(task=term.task, terms=(term,), value=term.value) for term in terms))
        update = {"fingerprint": fingerprint, "formula": formula}
        made = scores(name, *rows, suite="school", stderr=0.02).model_copy(update=update)
        self.logged[id(made)] = {
            task: [json.dumps(chosen(task, n, value, self._words)).encode() for n, value in enumerate(values)]
            for task, values in answers.items()
        }
        self.samples[id(made)] = {
            result_of(task)[:8]: {one: read_samples(self.logged[id(made)][one]) for one in names}
            for task, names in members.items()
        }
        self._kept = [*getattr(self, "_kept", []), made]  # so that no other has its id
        return made

    def lines(self, of: Scores, result: str, task: str) -> list[bytes]:
        return self.logged[id(of)][task]

    def samples_of(self, of: Scores) -> SuiteSamples:
        return self.samples.get(id(of), {})


def right(count: int, of: int = 40, first: int = 0) -> list[float]:
    """So many right answers, from one on, the others wrong."""
    return [float(first <= n < first + count) for n in range(of)]


def school(words: str = "") -> tuple[Leaderboard, Exam]:
    """``child`` is better than ``parent`` in law, worse in anatomy; it has an earlier version that was worse in all."""
    exam = Exam(words)
    tasks = (*SUBJECTS, "quiz")
    parent = exam.model("parent", {task: right(20) for task in tasks})
    old = exam.model("child", {task: right(8) for task in tasks}, "0ld")
    counts = {"exam_anatomy": 5, "exam_law": 38, "exam_physics": 21, "quiz": 39}
    child = exam.model("child", {task: right(counts[task]) for task in tasks}, "new")
    entries = [
        LeaderboardEntry(model=f"parent{words}", kind="base", parameters=1_000_000, fingerprint="f", scores=[parent]),
        LeaderboardEntry(
            model=f"child{words}",
            kind="variant",
            method="slerp",
            parameters=2_000_000,
            fingerprint="new",
            parents=[Parent(f"parent{words}", "f", [parent])],
            scores=[child],
            history=[Past("2026-01-02T03:04:05+00:00", old), Past("2026-02-03T04:05:06+00:00", child)],
        ),
    ]
    values = {"quiz": 97.0, "exam": 50.0, "average": 60.12}
    published = {
        f"child{words}": (
            Published(source=f"https://example.org/{words}", suite="school", values=values),
            Published(source=f"a table{words}", model=f"elsewhere{words}", values={f"ARC{words}": 12.5}),
        )
    }
    return Leaderboard(entries, samples=exam.samples_of, published=published), exam
