"""Evidence of one model being worse: it is that of the formula, seldom wrong however often one looks, and found in time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad

from merge_assets.evaluation.pairs import Sheet
from merge_assets.evaluation.sequential import PairedEvidence, differences, weighted
from merge_assets.evaluation.statistics import Measure, Ratio

Numbers = NDArray[np.float64]


def measure(ours: Numbers, theirs: Numbers) -> Measure:
    """Of two models' means."""
    sums = np.stack([np.stack([one, np.ones_like(one)], axis=-1) for one in (ours, theirs)])
    return Measure([Ratio(sums, np.zeros(len(ours), dtype=np.int64))], lambda ratios: ratios[..., 0])


def looked(ours: Numbers, theirs: Numbers, level: float = 0.05, steps: int = 4) -> list[float]:
    """The evidence at 1/2^steps, ..., all of the documents."""
    evidence = PairedEvidence(level)
    ends = [(len(ours) >> step, 2.0**-step) for step in range(steps, -1, -1)]
    return [evidence.of(measure(ours[:end], theirs[:end]), part) for end, part in ends]


def test_the_evidence_is_the_mean_of_the_martingales_over_their_slopes() -> None:
    draws = np.random.default_rng(0)
    ours, theirs = draws.normal(-0.3, 1, 64), draws.normal(0, 1, 64)
    tuned = 2 * math.log(20) + math.log(1 + 2 * math.log(20))
    first = ((ours - theirs)[:16] / 64) @ ((ours - theirs)[:16] / 64)
    spread = math.sqrt(tuned / (first / math.sqrt(0.25)))  # of the slopes

    for found, end in zip(looked(ours, theirs, steps=2), (16, 32, 64), strict=True):
        added = (ours - theirs)[:end] / 64
        low, squares = -float(added.sum()), float(added @ added)

        def at(slope: float, low: float = low, squares: float = squares) -> float:
            prior = 2 / (spread * math.sqrt(2 * math.pi)) * math.exp(-((slope / spread) ** 2) / 2)
            return prior * math.exp(slope * low - slope * slope * squares / 2)

        assert found == pytest.approx(quad(at, 0, 12 * spread)[0], rel=1e-6)


@pytest.mark.parametrize("kind", ["right or wrong", "heavy tails"])
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_one_that_is_no_worse_is_seldom_given_up_however_often_one_looks(kind: str, level: float) -> None:
    draws = np.random.default_rng(1)
    times, wrong = 2000, 0
    for _ in range(times):
        if kind == "right or wrong":
            ours, theirs = (draws.integers(0, 2, 256).astype(np.float64) for _ in range(2))
        else:
            ours, theirs = draws.standard_t(1.5, 256), draws.standard_t(1.5, 256)
        wrong += max(looked(ours, theirs, level, steps=6)) >= 1 / level
    assert wrong / times <= level + 3 * math.sqrt(level * (1 - level) / times)


def test_one_that_is_much_worse_is_given_up_at_the_first_part_and_one_that_is_better_never() -> None:
    draws = np.random.default_rng(2)
    low, high = (draws.random(1024) < right for right in (0.3, 0.7))
    worse = looked(low.astype(np.float64), high.astype(np.float64))
    better = looked(high.astype(np.float64), low.astype(np.float64))
    assert worse[0] > 20 and worse == sorted(worse)
    assert max(better) < 1


def test_equal_answers_are_no_evidence() -> None:
    ours = np.arange(32.0)
    assert looked(ours, ours) == [1.0] * 5


def test_what_documents_add_is_the_difference_of_values_also_of_ratios_and_of_several_columns() -> None:
    draws = np.random.default_rng(3)
    weights = draws.integers(1, 9, 40).astype(np.float64)
    ours, theirs = (-draws.random(40) * weights for _ in range(2))
    perplexity = Measure(
        [Ratio(np.stack([np.stack([one, weights], axis=-1) for one in (ours, theirs)]), np.zeros(40, dtype=np.int64))],
        lambda ratios: np.exp(-ratios[..., 0]),
    )
    gap = float(np.subtract(*perplexity.values))
    assert float(differences(perplexity).sum()) == pytest.approx(gap, rel=1e-2)  # to the first order

    def sheet(right: Numbers, name: str) -> Sheet:
        parts = [(np.stack([right, np.ones_like(right)], axis=-1), np.zeros(len(right), dtype=np.int64), name)]
        return Sheet(parts, lambda ratios: ratios[..., 0], {}, name)

    columns = {name: draws.integers(0, 2, (2, 40)).astype(np.float64) for name in ("one", "other")}
    both = [
        weighted(
            [
                ("suite", sheet(columns["one"][model], "task"), 2.0),
                ("suite", sheet(columns["other"][model], "task"), -0.5),
            ]
        )
        for model in (0, 1)
    ]
    sums = [np.stack([one.parts[part][0] for one in both]) for part in (0, 1)]
    strata = np.zeros(40, dtype=np.int64)
    found = differences(Measure([Ratio(sums[0], strata, 0), Ratio(sums[1], strata, 0)], both[0].value))
    wanted = (2 * np.subtract(*columns["one"]) - 0.5 * np.subtract(*columns["other"])) / 40
    assert found == pytest.approx(wanted)  # once for each document
    assert both[0].parts[0][2] == both[0].parts[1][2] == "suite: task"
