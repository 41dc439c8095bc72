"""Contract: the scores of a spectrum, checked by hand, by law, and on noise whose scores are known."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets.analysis.snr import (
    marchenko_pastur_median,
    noise_edge,
    score,
    spectrum_snr,
    threshold,
)


def test_the_score_by_hand():
    values = np.array([10.0, 9.0, 5.0, 2.0, 1.0])  # quartiles 9 and 2
    tau = 7 / 1.349 * 2  # square: 1 + √1; 10.38 exceeds every value
    found = score(values, (5, 5))
    assert found.tau == pytest.approx(tau)
    assert (found.snr, found.infinite) == (0.0, False)

    found = score(values, (5, 500))  # β = 0.01: tau = 5.189 · 1.1 = 5.708
    assert found.tau == pytest.approx(7 / 1.349 * 1.1)
    assert found.snr == pytest.approx(19 / 8)
    assert found.snr_normalised == pytest.approx(1.9 / 8)
    assert found.margin == pytest.approx(1 / (7 / 1.349 * 1.1))
    assert (found.s_max, found.s_min, found.sigma) == (10, 1, pytest.approx(7 / 1.349))
    assert found.stable_rank == pytest.approx((100 + 81 + 25 + 4 + 1) / 100)
    assert found.energy_top_1pct == found.energy_top_10pct == pytest.approx(100 / 211)


def test_a_value_equal_to_the_threshold_is_noise():
    values = np.array([4.0, 3.0, 2.7, 2.5, 0.1])
    tau = threshold(values, (5, 20))
    values[-1] = tau  # moves no quartile
    assert threshold(values, (5, 20)) == tau
    found = score(values, (5, 20))
    assert not found.infinite
    assert found.margin == 1


def test_a_flat_spectrum_is_infinite():
    found = score(np.linspace(1.1, 1.0, 50), (50, 200))
    assert (found.snr, found.snr_normalised, found.infinite) == (math.inf, math.inf, True)
    assert found.margin > 1


def test_identical_singular_values_are_infinite_with_infinite_margin():
    found = score(np.ones(16), (16, 16))
    assert (found.infinite, found.margin, found.tau) == (True, math.inf, 0.0)
    assert (found.stable_rank, found.effective_rank) == (pytest.approx(16), pytest.approx(16))


def test_noise_of_zeros_only_has_no_ratio():
    found = score(np.array([2.0, 0, 0, 0, 0, 0]), (6, 6))
    assert math.isnan(found.snr)
    assert (found.infinite, found.margin) == (False, 0.0)
    assert found.effective_rank == pytest.approx(1)


def test_a_zero_matrix_has_a_row_without_an_exception():
    found = score(np.zeros(4), (4, 8))
    assert math.isnan(found.snr) and math.isnan(found.snr_normalised)
    assert (found.infinite, found.outliers, found.effective_rank, found.stable_rank) == (False, 0, 0.0, 0.0)


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
spectra = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=40).map(lambda v: np.array(sorted(v, reverse=True)))


@unhurried
@given(spectra, st.integers(0, 60), st.integers(-20, 20))
def test_scaling_the_weights_changes_nothing_but_the_unit(values, extra, exponent):
    shape = (len(values), len(values) + extra)
    one, other = score(values, shape), score(values * 2.0**exponent, shape)
    assert (other.snr, other.infinite, other.outliers) == (one.snr, one.infinite, one.outliers)
    assert other.margin == one.margin
    assert other.snr_normalised == pytest.approx(one.snr_normalised / 2.0**exponent)


@unhurried
@given(spectra, st.integers(0, 60))
def test_infinite_exactly_where_the_margin_exceeds_one(values, extra):
    found = score(values, (len(values), len(values) + extra))
    assert found.infinite is (found.snr == math.inf)
    if abs(found.margin - 1) > 1e-12:
        assert found.infinite is (found.margin > 1)


@unhurried
@given(spectra, st.integers(0, 60))
def test_ranks_lie_between_one_and_the_short_side(values, extra):
    found = score(values, (len(values) + extra, len(values)))
    assert 1 - 1e-9 <= found.stable_rank <= len(values) * (1 + 1e-9)
    assert 1 - 1e-9 <= found.effective_rank <= len(values) * (1 + 1e-9)
    assert 0 < found.energy_top_1pct <= found.energy_top_10pct <= 1
    assert 0 <= found.outlier_energy <= 1


@pytest.mark.parametrize(("beta", "expected"), [(1, 0.79), (1 / 2, 3.9), (1 / 3, 21)])
def test_pure_noise_has_a_score_that_depends_on_its_shape_alone(beta, expected):
    rows = 600
    values = np.linalg.svd(np.random.default_rng(7).standard_normal((rows, round(rows / beta))), compute_uv=False)
    found = score(values, (rows, round(rows / beta)))
    assert not found.infinite
    assert found.snr == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("beta", [1 / 4, 1 / 8, 1 / 12])
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_pure_noise_of_a_quarter_or_less_is_infinite(beta, seed):
    shape = (120, round(120 / beta))
    values = np.linalg.svd(np.random.default_rng(seed).standard_normal(shape), compute_uv=False)
    assert score(values, shape).infinite


def test_the_border_of_infinity_for_noise_lies_at_beta_0_27():
    """From the edges of the Marchenko-Pastur law alone: the limit of large matrices."""

    def margin(beta):
        low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
        x = np.linspace(low, high, 400_001)
        density = np.sqrt((high - x) * (x - low)) / (2 * math.pi * beta * x)
        mass = np.cumsum(density) / density.sum()
        q25, q75 = (math.sqrt(x[np.searchsorted(mass, q)]) for q in (0.25, 0.75))
        return math.sqrt(low) / ((q75 - q25) / 1.349 * (1 + math.sqrt(beta)))

    assert margin(0.26) > 1 > margin(0.28)


@pytest.mark.parametrize("beta", [1e-3, 0.05, 0.25, 0.5, 0.8, 0.99])
def test_the_median_of_marchenko_and_pastur_halves_its_density(beta):
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2

    def mass(a, b):  # midpoints, so that the square roots at the edges do no harm
        x = a + (b - a) * (np.arange(1_000_000) + 0.5) / 1_000_000
        return float((np.sqrt((high - x) * (x - low)) / (2 * math.pi * beta * x)).sum() * (b - a) / 1_000_000)

    median = marchenko_pastur_median(beta)
    assert mass(low, high) == pytest.approx(1, abs=1e-5)
    assert mass(low, median) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("beta", [0.05, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_the_median_gives_the_threshold_of_gavish_and_donoho(beta):
    """Their coefficient ω(β) = λ*(β) / √μ_β is, to 0.02, the polynomial that their paper gives; 2.858 for β = 1."""
    inner = math.sqrt(beta**2 + 14 * beta + 1)
    optimal = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + inner))
    omega = optimal / math.sqrt(marchenko_pastur_median(beta))
    assert omega == pytest.approx(0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43, abs=0.02)
    if beta == 1:
        assert omega == pytest.approx(2.858, abs=5e-4)


def test_directions_stronger_than_noise_are_counted_as_outliers():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 400))
    planted = noise + 20 * rng.standard_normal((200, 3)) @ rng.standard_normal((3, 400)) / math.sqrt(20)
    for matrix, outliers in ((noise, 0), (planted, 3)):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert noise_edge(values, matrix.shape) == pytest.approx(math.sqrt(200) + math.sqrt(400), rel=0.02)
        found = score(values, matrix.shape)
        assert abs(found.outliers - outliers) <= (1 if outliers == 0 else 0)
    assert found.outlier_energy == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())


def test_the_number_spectrum_prints_counts_a_missing_noise_as_one():
    flat = np.linspace(1.1, 1.0, 50)
    assert spectrum_snr(flat, (50, 200)) == pytest.approx(flat.sum() / 1.1)
    values = np.array([10.0, 9.0, 5.0, 2.0, 1.0])
    assert spectrum_snr(values, (5, 500)) == score(values, (5, 500)).snr_normalised
