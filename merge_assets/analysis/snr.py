"""Scores of a spectrum: the SNR of laserRMT and Spectrum, and figures that judge it.

For singular values S of a matrix with short and long sides n ≤ m, β = n/m: sigma = (q75(S) - q25(S)) / 1.349 with
linearly interpolated quantiles, tau = sigma (1 + √β), SNR = Σ S[S > tau] / Σ S[S ≤ tau]. sigma is a spread of the
singular values, not of the entries, so tau is not the edge of the noise; the Marchenko-Pastur edge is given beside
it, from the median singular value (Gavish and Donoho, arXiv:1305.5870).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Score:
    """Everything that is derived from one spectrum. Same unit as the weights unless said otherwise.

    Attributes:
        snr: signal / noise, a ratio; ``inf`` where ``infinite``; NaN where the noise consists of zeros only (rank
            deficiency), so that no ratio exists.
        snr_normalised: ``snr / s_max``, what laserRMT and Spectrum print.
        infinite: no singular value is ≤ ``tau``: a flat spectrum.
        margin: ``s_min / tau``; above 1 exactly where ``infinite``.
        tau: threshold between signal and noise.
        sigma: spread of the singular values, interquartile range / 1.349.
        s_max: largest singular value.
        s_min: smallest singular value.
        mp_edge: largest singular value that pure noise of the same median would have.
        outliers: number of singular values above ``mp_edge``.
        outlier_energy: their share of ‖W‖²_F, 0 to 1.
        stable_rank: ‖W‖²_F / s_max².
        effective_rank: exp of the entropy of S / ΣS.
        energy_top_1pct: share of ‖W‖²_F in the largest 1 % of the singular values (at least one).
        energy_top_10pct: the same for 10 %.
    """

    snr: float
    snr_normalised: float
    infinite: bool
    margin: float
    tau: float
    sigma: float
    s_max: float
    s_min: float
    mp_edge: float
    outliers: int
    outlier_energy: float
    stable_rank: float
    effective_rank: float
    energy_top_1pct: float
    energy_top_10pct: float


def spread(values: npt.NDArray[np.float64]) -> float:
    """sigma: interquartile range of the singular values / 1.349."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low) / 1.349


def threshold(values: npt.NDArray[np.float64], shape: tuple[int, int]) -> float:
    """tau = sigma (1 + √β)."""
    return spread(values) * (1 + math.sqrt(min(shape) / max(shape)))


def score(values: npt.NDArray[np.float64], shape: tuple[int, int]) -> Score:
    """Every figure of one spectrum.

    Args:
        values: the singular values, descending, float64, shape (min(shape),).
        shape: rows and columns of the matrix.
    """
    s_max, s_min = float(values[0]), float(values[-1])
    tau = threshold(values, shape)
    above = values > tau
    infinite = bool(above.all())
    snr = _ratio(float(values[above].sum()), float(values[~above].sum()), infinite)
    squares = np.square(values / s_max) if s_max else np.zeros_like(values)
    edge = noise_edge(values, shape)
    outlying = values > edge
    return Score(
        snr=snr,
        snr_normalised=snr / s_max if s_max else math.nan,
        infinite=infinite,
        margin=_margin(s_min, tau),
        tau=tau,
        sigma=spread(values),
        s_max=s_max,
        s_min=s_min,
        mp_edge=edge,
        outliers=int(outlying.sum()),
        outlier_energy=_share(squares, int(outlying.sum())),
        stable_rank=float(squares.sum()),
        effective_rank=_effective_rank(values),
        energy_top_1pct=_share(squares, math.ceil(len(values) / 100)),
        energy_top_10pct=_share(squares, math.ceil(len(values) / 10)),
    )


def spectrum_snr(values: npt.NDArray[np.float64], shape: tuple[int, int]) -> float:
    """The number that Spectrum prints since April 2025: normalised, with noise 1 where there is no noise."""
    tau = threshold(values, shape)
    above = values > tau
    noise = float(values[~above].sum()) if not above.all() else 1.0
    s_max = float(values[0])
    return float(values[above].sum()) / noise / s_max if noise and s_max else math.nan


def noise_edge(values: npt.NDArray[np.float64], shape: tuple[int, int]) -> float:
    """The upper edge of the singular values of iid noise that has the same median: s_med / √μ_β · (1 + √β)."""
    beta = min(shape) / max(shape)
    return float(np.median(values)) / math.sqrt(marchenko_pastur_median(beta)) * (1 + math.sqrt(beta))


@lru_cache(maxsize=1024)
def marchenko_pastur_median(beta: float) -> float:
    """μ_β, the median of the Marchenko-Pastur law of unit variance with aspect ratio 0 < β ≤ 1.

    With x = a + (b - a) sin²φ between the edges a, b = (1 ∓ √β)², the density times dx is smooth in φ, so the
    distribution function is a Gauss-Legendre sum (200 nodes), inverted by bisection.
    """
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    nodes, weights = _gauss_legendre()

    def mass(limit: float) -> float:
        phi = (nodes + 1) * limit / 2
        sine, cosine = np.sin(phi), np.cos(phi)
        x = low + (high - low) * sine**2
        density = (high - low) ** 2 * (sine * cosine) ** 2 / (math.pi * beta * x)
        return float((weights * density).sum() * limit / 2)

    left, right = 0.0, math.pi / 2
    for _ in range(60):
        middle = (left + right) / 2
        left, right = (middle, right) if mass(middle) < 0.5 else (left, middle)
    return low + (high - low) * math.sin(left) ** 2


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def _ratio(signal: float, noise: float, infinite: bool) -> float:
    if infinite:
        return math.inf
    return signal / noise if noise else math.nan


def _margin(s_min: float, tau: float) -> float:
    if tau:
        return s_min / tau
    return math.inf if s_min else 0.0


def _share(squares: npt.NDArray[np.float64], count: int) -> float:
    total = float(squares.sum())
    return float(squares[:count].sum()) / total if total else 0.0


def _effective_rank(values: npt.NDArray[np.float64]) -> float:
    positive = values[values > 0]
    if not len(positive):
        return 0.0
    shares = positive / positive.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
