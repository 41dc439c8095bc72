"""Singular values of a matrix, from the Gram matrix of its short side where that is accurate enough.

The Gram matrix squares the condition number: an error of the size of rounding in an eigenvalue λ = s² becomes
an error of about √k ε s_max² / 2s in the singular value s (k the short side, ε = 2⁻⁵²; measured errors stay
below). :func:`gram_suffices` says from that bound whether the score could change; where it could, the
singular values are computed from the matrix itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from merge_assets.analysis.reading import Doubles, StoredMatrix
from merge_assets.analysis.snr import threshold
from merge_assets.errors import AnalysisError

Spectrum = npt.NDArray[np.float64]
"""Singular values, descending, float64."""

_EPS = float(np.finfo(np.float64).eps)
_BLOCK_ELEMENTS = 8 << 20
_SCORE_ERROR = 5e-10
_SQUARES_VANISH = 1e-250


def singular_values(matrix: StoredMatrix) -> Spectrum:
    """All ``min(rows, columns)`` singular values, descending, float64.

    Values below rounding (``max(rows, columns) · ε · s_max``) are exactly 0, so that a rank-deficient matrix has
    the same spectrum on every machine.

    Raises:
        AnalysisError: the matrix has a NaN or an infinity.
    """
    values = _from_gram(matrix)
    if values is None or not gram_suffices(values, matrix.shape):
        values = _from_matrix(matrix)
    values[values <= max(matrix.shape) * _EPS * values[0]] = 0.0
    return values


def gram_suffices(values: Spectrum, shape: tuple[int, int]) -> bool:
    """Whether a spectrum taken from the Gram matrix gives the score as the matrix itself would.

    It does not where the smallest value lies within 1e-6 of the threshold or below 1e-6 of the largest, where any
    value lies so close to the threshold that rounding may move it across, or where the noise sum is uncertain by
    more than 5e-10 of itself.
    """
    largest, smallest = float(values[0]), float(values[-1])
    if largest == 0:
        return True
    if smallest < 1e-6 * largest:
        return False
    tau = threshold(values, shape)
    if abs(smallest - tau) <= 1e-6 * tau:
        return False
    errors = np.sqrt(len(values)) * _EPS * largest**2 / (2 * values)
    if np.any(np.abs(values - tau) <= errors + 4 * errors[3 * (len(values) - 1) // 4]):
        return False
    noise = values <= tau
    return float(errors[noise].sum()) <= _SCORE_ERROR * float(values[noise].sum())


def _from_gram(matrix: StoredMatrix) -> Spectrum | None:
    """Square roots of the eigenvalues of the short side's Gram matrix; ``None`` where there are none."""
    rows, columns = matrix.shape
    side, length = min(rows, columns), max(rows, columns)
    step = max(256, _BLOCK_ELEMENTS // side)
    gram: Doubles = np.zeros((side, side))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, length, step):
            cut = slice(start, start + step)
            block = matrix.block(columns=cut) if rows <= columns else matrix.block(rows=cut).T
            gram += block @ block.T
    if not np.isfinite(gram).all() or gram.max() < _SQUARES_VANISH:
        return None
    try:
        return np.asarray(np.sqrt(np.clip(np.linalg.eigvalsh(gram)[::-1], 0.0, None)))
    except np.linalg.LinAlgError:
        return None


def _from_matrix(matrix: StoredMatrix) -> Spectrum:
    full = matrix.block()
    if not np.isfinite(full).all():
        raise AnalysisError(f"{np.count_nonzero(~np.isfinite(full))} of {full.size} values are NaN or infinite")
    tall = full if full.shape[0] >= full.shape[1] else full.T
    try:
        return np.asarray(np.linalg.svd(tall, compute_uv=False), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise AnalysisError(f"its singular values do not converge: {error}") from error
