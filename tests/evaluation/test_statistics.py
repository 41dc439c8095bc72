"""Contract: p-values are those of scipy or of enumeration, intervals those of straightforward resampling, and the laws hold
that comparisons have: what is swapped turns its sign, and what is equal cannot be told apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.evaluation.statistics import (
    FloatArray,
    Measure,
    PairedDifference,
    Ratio,
    compare,
    holm,
    mcnemar,
    rank_intervals,
    resampled,
)


def first(ratios: FloatArray) -> FloatArray:
    return ratios[..., 0]


def mean(ratios: FloatArray) -> FloatArray:
    return ratios.mean(axis=-1)


def part(
    *models: Sequence[float],
    weights: Sequence[float] | None = None,
    strata: Sequence[int] | None = None,
    source: int = 0,
) -> Ratio:
    """What each document adds, of each model; of equal weights and one stratum by default."""
    values = np.array(models, dtype=np.float64)
    heavy = (
        np.ones_like(values) if weights is None else np.broadcast_to(np.array(weights, dtype=np.float64), values.shape)
    )
    sums = np.stack([values, heavy], axis=-1)
    return Ratio(sums, np.zeros(values.shape[1], dtype=np.int64) if strata is None else np.array(strata), source)


def single(*models: Sequence[float], weights: Sequence[float] | None = None) -> Measure:
    return Measure([part(*models, weights=weights)], first)


def compared(measure: Measure) -> PairedDifference:
    return compare(measure, resampled(measure))


def means(answers: int, *, documents: int = 30, parts: int = 3, seed: int = 0) -> Measure:
    """Right and wrong answers to several tasks; the value is the mean over the tasks."""
    draws = np.random.default_rng(seed)
    return Measure([part(*draws.integers(0, 2, (answers, documents + 7 * i)), source=i) for i in range(parts)], mean)


# -- one test -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (0, 1), (3, 3), (5, 1), (0, 9), (30, 12), (1200, 1080), (4000, 1)]
)
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    differing = gained + lost
    expected = scipy.stats.binomtest(gained, differing, 0.5).pvalue if differing else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-12)


def test_right_and_wrong_answers_are_compared_by_mcnemar() -> None:
    ours = [1, 1, 1, 1, 1, 1, 1, 0, 0, 1]
    theirs = [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    found = compared(single(ours, theirs))
    assert found.p == mcnemar(7, 1) == pytest.approx(18 / 256)
    assert found.difference == pytest.approx(0.6)


@pytest.mark.parametrize("seed", range(3))
def test_other_values_are_compared_by_all_swaps(seed: int) -> None:
    """Of eleven documents, all 2048 ways to swap are gone through."""
    draws = np.random.default_rng(seed)
    ours, theirs = draws.normal(0.3, 1, 11), draws.normal(0, 1, 11)
    gaps = ours - theirs
    sums = np.array([np.dot(signs, gaps) for signs in itertools.product((-1, 1), repeat=11)])
    exact = float((np.abs(sums) >= abs(gaps.sum()) - 1e-9).mean())
    found = compared(single(ours, theirs))
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999) + 1e-4)
    oracle = scipy.stats.permutation_test(
        (ours, theirs), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert exact == pytest.approx(oracle.pvalue)


def test_several_tasks_are_swapped_together() -> None:
    """Two tasks of few documents, the value their mean: against all ways to swap."""
    one, two = ([1, 1, 1, 0], [0, 0, 1, 1]), ([1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0])
    gaps = [np.subtract(*one) / 4, np.subtract(*two) / 6]
    each = [np.array([np.dot(signs, gap) for signs in itertools.product((-1, 1), repeat=len(gap))]) for gap in gaps]
    all_ways = (each[0][:, None] + each[1][None, :]).ravel()
    exact = float((np.abs(all_ways) >= abs(sum(gap.sum() for gap in gaps)) - 1e-9).mean())
    found = compared(Measure([part(*one), part(*two, source=1)], mean))
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999) + 1e-4)


def test_two_metrics_of_the_same_documents_are_as_their_mean_document_by_document() -> None:
    """Metrics that nearly agree tell no more than one: drawn apart, the error would be smaller by the root of two."""
    draws = np.random.default_rng(3)
    models = draws.normal([[0.2], [0]], 1, (2, 40))
    metrics = [models, models + draws.normal(0, 0.1, (2, 40))]
    found = compared(Measure([part(*one) for one in metrics], mean))
    expected = compared(single(*np.mean(metrics, axis=0)))
    assert found.stderr == pytest.approx(expected.stderr)
    assert found.p == pytest.approx(expected.p, abs=4 * math.sqrt(0.25 / 9999))


@pytest.mark.parametrize("gap", [0.03, 0.08])
def test_very_many_documents_are_compared_as_few_are(gap: float) -> None:
    draws = np.random.default_rng(6)
    theirs = draws.uniform(0, 1, 900)
    ours = theirs + draws.normal(gap, 0.8, 900)
    expected = scipy.stats.ttest_rel(ours, theirs).pvalue
    assert compared(single(ours, theirs)).p == pytest.approx(expected, abs=4 * math.sqrt(expected / 9999) + 1e-4)


@pytest.mark.parametrize("gap", [0.8, 1.2])
def test_beyond_the_sample_of_swaps_p_is_no_smaller_than_it_is(gap: float) -> None:
    """Forty documents, of which the exact share is too small to be sampled; bounded from above and from below."""
    draws = np.random.default_rng(1)
    theirs = draws.normal(0, 1, 40)
    ours = theirs + draws.normal(gap, 1, 40)
    found = compared(single(ours, theirs))
    t = scipy.stats.ttest_rel(ours, theirs).pvalue
    assert t / 30 < found.p < 1e-3
    assert found.p >= 2.0**-39


def test_a_perplexity_is_compared_by_its_logarithm() -> None:
    draws = np.random.default_rng(2)
    size = draws.integers(50, 500, 30)
    theirs = -1.2 * size + draws.normal(0, 20, 30)
    ours = theirs + draws.normal(3, 8, 30)

    def perplexity(ratios: FloatArray) -> FloatArray:
        return np.exp(-ratios[..., 0])

    found = compared(Measure([part(ours, theirs, weights=size)], perplexity))
    assert found.difference == pytest.approx(math.exp(-ours.sum() / size.sum()) - math.exp(-theirs.sum() / size.sum()))
    assert found.p == compared(single(ours, theirs, weights=size)).p


# -- intervals ------------------------------------------------------------------------------------------------------------


def test_the_error_of_a_mean_is_that_of_the_differences() -> None:
    draws = np.random.default_rng(3)
    theirs = draws.normal(0, 1, 200)
    ours = theirs + draws.normal(0.1, 0.2, 200)
    found = compared(single(ours, theirs))
    paired = np.std(ours - theirs) / math.sqrt(200)
    assert found.stderr == pytest.approx(paired, rel=0.06)
    assert (found.low, found.high) == pytest.approx(
        (found.difference - 1.96 * paired, found.difference + 1.96 * paired), abs=0.25 * paired
    )


def test_the_interval_is_the_one_of_scipys_paired_bootstrap() -> None:
    draws = np.random.default_rng(4)
    size = draws.integers(20, 200, 60).astype(float)
    theirs = -size * draws.gamma(20, 0.05, 60)
    ours = theirs * draws.normal(0.97, 0.04, 60)

    def difference(a: FloatArray, b: FloatArray, weight: FloatArray) -> float:
        return float(math.exp(-a.sum() / weight.sum()) - math.exp(-b.sum() / weight.sum()))

    oracle = scipy.stats.bootstrap(
        (ours, theirs, size), difference, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=5
    )
    measure = Measure([part(ours, theirs, weights=size)], lambda ratios: np.exp(-ratios[..., 0]))
    found = compared(measure)
    assert found.stderr == pytest.approx(oracle.standard_error, rel=0.1)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.25 * found.stderr)


def test_each_task_keeps_its_number_of_documents() -> None:
    """Two strata in which nothing varies: so does nothing of what is drawn anew, unlike without strata."""
    ours, theirs = [1.0] * 5 + [0.0] * 5, [0.0] * 10
    stratified = Measure([part(ours, theirs, strata=[0] * 5 + [1] * 5)], first)
    assert compared(stratified).stderr == 0
    assert compared(single(ours, theirs)).stderr > 0.1


# -- laws -----------------------------------------------------------------------------------------------------------------

ANSWERS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
NUMBERS = st.lists(
    st.tuples(st.floats(-5, 5, allow_subnormal=False), st.floats(-5, 5, allow_subnormal=False)), min_size=2, max_size=25
)


@settings(max_examples=25, deadline=None)
@given(st.one_of(ANSWERS, NUMBERS))
def test_swapping_two_models_turns_the_sign(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    one, other = compared(single(ours, theirs)), compared(single(theirs, ours))
    assert one.difference == pytest.approx(-other.difference)
    assert (one.stderr, one.p, one.detectable) == (
        pytest.approx(other.stderr),
        other.p,
        pytest.approx(other.detectable),
    )
    assert (one.low, one.high) == (pytest.approx(-other.high, abs=1e-12), pytest.approx(-other.low, abs=1e-12))


@settings(max_examples=15, deadline=None)
@given(st.one_of(ANSWERS, NUMBERS))
def test_identical_answers_cannot_be_told_apart(pairs: list[tuple[float, float]]) -> None:
    ours = [one for one, _ in pairs]
    found = compared(single(ours, ours))
    assert (found.difference, found.stderr, found.low, found.high, found.p) == (0, 0, 0, 0, 1)


def test_the_same_comparison_gives_the_same_numbers() -> None:
    assert compared(means(2)) == compared(means(2))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_his_procedure(ps: list[float]) -> None:
    """Rejected are, from the smallest on, those at most 5 % over the number of those left, up to the first that is not."""
    rejected, order = set(), sorted(range(len(ps)), key=lambda i: ps[i])
    for place, index in enumerate(order):
        if ps[index] * (len(ps) - place) > 0.05:
            break
        rejected.add(index)
    adjusted = holm(ps)
    assert {index for index, p in enumerate(adjusted) if p <= 0.05} == rejected
    assert all(min(1.0, p) <= a <= 1 for p, a in zip(ps, adjusted, strict=True))


def test_holm_of_a_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# -- the smallest difference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("documents", "differing"), [(60, 0.3), (200, 0.1), (1000, 0.2), (1000, 0.02)])
def test_the_smallest_difference_is_told_four_times_of_five(documents: int, differing: float) -> None:
    """Models that differ by it are drawn 400 times: 80 %, within four standard errors and what an exact test loses or gains."""
    count = round(documents * differing)
    theirs = np.zeros(documents)
    theirs[: count // 2] = 1
    ours = np.zeros(documents)
    ours[count // 2 : count] = 1
    detectable = compared(single(ours, theirs)).detectable
    assert detectable is not None
    share = max(differing, detectable)
    draws = np.random.default_rng(7)
    kinds = draws.multinomial(documents, [(share + detectable) / 2, (share - detectable) / 2, 1 - share], size=400)
    told = sum(mcnemar(int(gained), int(lost)) <= 0.05 for gained, lost, _ in kinds) / 400
    assert 0.72 < told < 0.93


def test_no_difference_could_be_told_of_too_few_documents() -> None:
    assert compared(single([1, 0, 1], [1, 0, 1])).detectable is None


# -- ranks ----------------------------------------------------------------------------------------------------------------


def test_ranks_that_are_clear_and_ranks_that_are_not() -> None:
    draws = np.random.default_rng(8)
    hard = draws.normal(0, 1, 300)
    models = [hard + draws.normal(level, 0.3, 300) for level in (1.0, 0.98, 0.0, -1.0)]
    measure = single(*models)
    intervals = rank_intervals(list(measure.values), [([0, 1, 2, 3], resampled(measure))])
    assert intervals == [(1, 2), (1, 2), (3, 3), (4, 4)]


def test_models_that_answered_other_documents_may_have_any_rank() -> None:
    measure = single([1.0, 1.1, 1.2, 0.9], [0.0, 0.1, 0.15, -0.1])
    draws = resampled(measure)
    assert rank_intervals([1.05, 0.0375, 0.5], [([0, 1], draws)]) == [(1, 2), (2, 3), (1, 3)]


def test_of_two_models_the_interval_is_their_test() -> None:
    """For two, the largest difference is the difference: ranks are certain where the 95 % interval of it excludes none."""
    draws = np.random.default_rng(9)
    certain = 0
    for _ in range(40):
        theirs = draws.normal(0, 1, 50)
        measure = single(theirs + draws.normal(0.1, 0.35, 50), theirs)
        found, intervals = compared(measure), rank_intervals(list(measure.values), [([0, 1], resampled(measure))])
        z = abs(found.difference) / found.stderr
        assert intervals[0] == ((1, 2) if z < 1.8 else intervals[0])
        assert intervals[0] != (1, 2) or z < 2.2
        certain += intervals[0] != (1, 2)
    assert 5 < certain < 35
