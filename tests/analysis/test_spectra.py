"""Contract: singular values equal those of a float64 SVD wherever the score depends on it.

The fast path squares the condition number. It may be used only where the score cannot change by it; the hand-made
spectra below sit on every border between the two paths.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.analysis.reading import StoredMatrix
from merge_assets.analysis.snr import score, threshold
from merge_assets.analysis.spectra import gram_suffices, singular_values
from merge_assets.errors import AnalysisError
from tests.analysis_support import with_spectrum


def stored(matrix):
    return StoredMatrix(np.ascontiguousarray(matrix, dtype=np.float64), "F64")


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1), st.floats(1e-8, 1e8))
def test_singular_values_of_any_matrix_equal_a_full_svd(rows, columns, seed, scale):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns)) * scale
    expected = np.linalg.svd(matrix)[1]
    found = singular_values(stored(matrix))
    assert found.shape == (min(rows, columns),)
    assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-13 * expected[0])


def test_long_matrices_are_summed_over_several_blocks(monkeypatch):
    monkeypatch.setattr("merge_assets.analysis.spectra._BLOCK_ELEMENTS", 1)
    matrix = np.random.default_rng(0).standard_normal((8, 1000))
    expected = np.linalg.svd(matrix)[1]
    np.testing.assert_allclose(singular_values(stored(matrix)), expected, rtol=1e-12)
    np.testing.assert_allclose(singular_values(stored(matrix.T)), expected, rtol=1e-12)


@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7, 1e9])
def test_small_singular_values_survive_a_high_condition_number(condition):
    wanted = np.geomspace(1, 1 / condition, 24)
    matrix = with_spectrum(wanted, 60)
    found = singular_values(stored(matrix))
    # An SVD is exact to rounding of the largest value; a Gram matrix alone loses everything below 1e-8 of it.
    np.testing.assert_allclose(found, wanted, rtol=1e-4 if condition < 1e6 else 0, atol=1e-14)
    score_found, score_wanted = score(found, matrix.shape), score(wanted, matrix.shape)
    assert score_found.snr == pytest.approx(score_wanted.snr, rel=1e-9)


def test_the_gram_matrix_alone_would_not_do_at_condition_1e9():
    matrix = with_spectrum(np.geomspace(1, 1e-9, 24), 60)
    naive = np.sqrt(np.clip(np.linalg.eigvalsh(matrix @ matrix.T), 0, None))
    assert abs(naive[0] / 1e-9 - 1) > 0.1
    assert singular_values(stored(matrix))[-1] == pytest.approx(1e-9, rel=1e-4)


def test_a_plain_spectrum_is_taken_from_the_gram_matrix(monkeypatch):
    monkeypatch.setattr("merge_assets.analysis.spectra._from_matrix", lambda _: pytest.fail("not needed"))
    singular_values(stored(np.random.default_rng(0).standard_normal((48, 64))))


@pytest.mark.parametrize(
    ("name", "move"),
    [
        ("smallest value far below the largest", lambda values, tau: values[-1] * 0 + 0.9e-6 * values[0]),
        ("smallest value just above the threshold", lambda values, tau: tau * (1 + 5e-7)),
        ("smallest value just below the threshold", lambda values, tau: tau * (1 - 5e-7)),
    ],
)
def test_borderline_smallest_values_are_computed_from_the_matrix(name, move, monkeypatch):
    values = np.linspace(2, 1, 41)
    tau = threshold(values, (41, 80))
    values[-1] = move(values, tau)
    assert threshold(values, (41, 80)) == pytest.approx(tau, rel=1e-12), "the quartiles do not see the smallest value"
    assert not gram_suffices(values, (41, 80)), name
    calls = []
    from merge_assets.analysis import spectra

    exact = spectra._from_matrix
    monkeypatch.setattr(spectra, "_from_matrix", lambda matrix: calls.append(1) or exact(matrix))
    found = singular_values(stored(with_spectrum(values, 80)))
    assert calls, name
    assert score(found, (41, 80)).infinite is bool(values[-1] > tau)


def test_a_value_between_others_that_touches_the_threshold_is_computed_from_the_matrix():
    values = np.linspace(2, 1, 41)
    tau = threshold(values, (41, 80))
    values[-3:] = tau * (1 + 1e-15), tau / 2, tau / 4
    assert not gram_suffices(values, (41, 80))
    values[-3] = tau * 1.01
    assert gram_suffices(values, (41, 80))


def test_a_noise_sum_of_tiny_values_is_computed_from_the_matrix():
    values = np.concatenate([np.linspace(1.001, 1, 60), np.full(4, 2e-6)])
    assert values[-1] > 1e-6 * values[0], "not caught by the rule on the smallest value"
    assert not gram_suffices(values, (64, 64))
    matrix = with_spectrum(values, 64)
    assert score(singular_values(stored(matrix)), (64, 64)).snr == pytest.approx(values[:60].sum() / 8e-6, rel=1e-9)


def test_rank_deficiency_gives_exact_zeros():
    found = singular_values(stored(with_spectrum([3, 2, 1, 0, 0, 0], 9)))
    assert (found[3:] == 0).all()
    np.testing.assert_allclose(found[:3], [3, 2, 1], rtol=1e-12)
    assert (singular_values(stored(np.zeros((4, 5)))) == 0).all()


def test_values_whose_squares_overflow_or_vanish_are_still_right():
    matrix = np.random.default_rng(0).standard_normal((6, 9))
    expected = np.linalg.svd(matrix)[1]
    np.testing.assert_allclose(singular_values(stored(matrix * 1e200)) / 1e200, expected, rtol=1e-12)
    np.testing.assert_allclose(singular_values(stored(matrix * 1e-200)) * 1e200, expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_an_error(bad):
    matrix = np.ones((4, 6))
    matrix[1, 2] = bad
    with pytest.raises(AnalysisError, match="1 of 24 values are NaN or infinite"):
        singular_values(stored(matrix))


@pytest.mark.parametrize(
    ("code", "dtype", "raw"),
    [
        ("BF16", torch.bfloat16, np.uint16),
        ("F16", torch.float16, np.float16),
        ("F32", torch.float32, np.float32),
        ("F64", torch.float64, np.float64),
    ],
)
def test_every_storage_type_is_widened_exactly(code, dtype, raw):
    values = torch.tensor(np.random.default_rng(0).standard_normal((5, 7)) * 1e-3).to(dtype)
    held = StoredMatrix(np.frombuffer(values.view(torch.uint8).numpy().tobytes(), dtype=raw).reshape(5, 7), code)
    assert np.array_equal(held.block(), values.to(torch.float64).numpy())
    assert np.array_equal(held.block(slice(1, 3), slice(2, 6)), values[1:3, 2:6].to(torch.float64).numpy())
