"""Contract: verdicts are wrong as rarely as they say where two models do not differ, and told as often as they say where they
do.

Two models with answers like those of the demo, but made up: hard and easy documents, and right answers that go together.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.significance import Column, columns_of, nothing, something
from merge_assets.evaluation.statistics import LEVEL, compare, holm, resampled
from tests.leaderboard_support import row, scores
from tests.sample_support import Answered, lines

ALLOWED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)
"""Of 1000 verdicts at the 5 % level: 6.4 %."""


@pytest.fixture(scope="module")
def columns() -> list[Column]:
    """The headline, four tasks of right and wrong answers, and a perplexity."""
    draws, answered, made = np.random.default_rng(11), Answered(), []
    hard = {name: draws.normal(0, 1.5, size) for name, size in (("a", 60), ("b", 60), ("c", 40), ("d", 300))}
    sizes = draws.integers(80, 900, 40)
    likely = -1.2 * sizes * draws.normal(1, 0.15, 40)
    for name, level in (("one", 0.3), ("other", 0.5)):
        answers = {task: (draws.normal(level, 0.7, len(each)) > each).astype(float) for task, each in hard.items()}
        told = list(zip((likely + draws.normal(0, 0.03, 40) * sizes).tolist(), sizes.tolist(), strict=True))
        perplexity = math.exp(-sum(ll for ll, _ in told) / sum(size for _, size in told))
        rows = [row(task, "acc", float(each.mean()), n=len(each)) for task, each in answers.items()]
        rows.append(row("text", "byte_perplexity", perplexity, n=40, higher=False, headline=False))
        logged = {task: lines(task, "acc", each.tolist()) for task, each in answers.items()}
        logged["text"] = lines("text", "byte_perplexity", [list(each) for each in told])
        made.append(answered.add(scores(name, *rows), logged))
    return columns_of(*made, {id(each): answered(each) for each in made})


def check(columns: list[Column], times: int, allowed: float) -> None:
    ps, _ = nothing(columns, times)
    wrong = (ps <= LEVEL).mean(axis=0)
    assert {column.name: share for column, share in zip(columns, wrong, strict=True) if share > allowed} == {}
    assert np.mean([min(holm(list(page))) <= LEVEL for page in ps]) <= allowed
    assert ps.min() < LEVEL, "else nothing was looked at"


def test_two_models_of_which_none_is_better_are_seldom_told_apart(columns: list[Column]) -> None:
    times = 100
    check(columns, times, 0.05 + 3 * math.sqrt(0.05 * 0.95 / times))


@pytest.mark.thorough
@pytest.mark.slow
def test_two_models_of_which_none_is_better_are_told_apart_in_one_of_twenty_cases(columns: list[Column]) -> None:
    check(columns, 1000, ALLOWED)


def found(column: Column) -> float:
    shift = compare(column.measure, resampled(column.measure)).detectable
    assert shift is not None
    return shift


@pytest.mark.slow
def test_the_smallest_difference_that_could_be_told_is_told(columns: list[Column]) -> None:
    """Four of five times, but for two standard errors of 400 times, and what a formula for few documents misses."""
    told = {column.name: float((something(column, found(column), 400) <= LEVEL).mean()) for column in columns}
    assert {name: share for name, share in told.items() if share < 0.8 - 0.02 - 2 * math.sqrt(0.8 * 0.2 / 400)} == {}


def test_the_error_of_the_same_documents_is_smaller_than_that_of_independent_models(columns: list[Column]) -> None:
    right = columns[1:-1]
    paired = [compare(column.measure, resampled(column.measure)).stderr for column in right]
    apart = [
        math.hypot(*(part.sums[model, :, 0].std() / math.sqrt(part.sums.shape[1]) for model in (0, 1)))
        for column in right
        for part in column.measure.parts
    ]
    assert all(one < other for one, other in zip(paired, apart, strict=True))
