"""Whether two models that answered the same documents differ: the arithmetic, on arrays alone.

Everything is paired: both models are seen on the same documents, and what makes a document hard for both cancels. Documents are
taken as a sample of those that could have been asked.

- the interval of a difference, and its error: a bootstrap of documents, drawn anew within each stratum (Efron, 1979)
- its p-value: of all the ways to swap the two models' answers within documents, the share with as large a difference. That is
  exact for two models that do not differ. Where each document counts the same, it is McNemar's exact test (1947)
- many differences at once: Holm (1979)
- intervals of ranks: Mogstad, Romano, Shaikh and Wilhelm, Inference for Ranks (2024)

All random numbers come from fixed seeds, and every model sees the same draws: swapping two models turns signs, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from merge_assets.evaluation.verdicts import are_equal

FloatArray = NDArray[np.float64]

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 2000
SWAPS = 9999
_SEED = 1234
_Z_LEVEL, _Z_POWER = 1.959963984540054, 0.8416212335729143
"""Quantiles of the normal distribution at 1 - LEVEL / 2 and at POWER."""
_FEW = 10
"""Fewer swaps than these with as large a difference tell too little of how rare it is."""
_MANY = 500
"""Documents with as many different values have sums that are normal."""
_CHUNK = 4_000_000
"""Numbers that are held at once."""


@dataclass(frozen=True, eq=False)
class Ratio:
    """A ratio of two sums over documents: a mean, or log-likelihoods over bytes.

    Attributes:
        sums: float64[models, documents, 2], what each document adds to the numerator and to the denominator. Documents are in
            one order for all models.
        strata: int[documents], the stratum of each document, from 0 on: its task.
        source: what the documents are of. Parts of one source have the same documents in the same order, which are drawn and
            swapped for all of them at once.
    """

    sums: FloatArray
    strata: NDArray[np.int64]
    source: int = 0

    def of(self, models: Sequence[int]) -> Ratio:
        """The same of some models."""
        return Ratio(self.sums[list(models)], self.strata, self.source)


@dataclass(frozen=True, eq=False)
class Measure:
    """One value of each of several models.

    Attributes:
        parts: what it is made of.
        value: from the ratios of the parts, float64[..., parts], to the value, float64[...].
    """

    parts: Sequence[Ratio]
    value: Callable[[FloatArray], FloatArray]

    @property
    def values(self) -> FloatArray:
        """float64[models]."""
        totals = np.stack([part.sums.sum(axis=1) for part in self.parts], axis=-2)
        return self.value(totals[..., 0] / totals[..., 1])

    def of(self, models: Sequence[int]) -> Measure:
        """The same of some models."""
        return Measure([part.of(models) for part in self.parts], self.value)


@dataclass(frozen=True)
class PairedDifference:
    """What is known of the difference of two models' values, in the unit of the values.

    Attributes:
        difference: the first model's value minus the second's.
        stderr: its standard error.
        low: lower end of its 95 % interval.
        high: upper end.
        p: how often two models that do not differ would differ as much, both directions taken together.
        detectable: the smallest difference that would have been told from none, at the 5 % level, with a chance of 80 %;
            ``None`` if the answers tell nothing of it.
    """

    difference: float
    stderr: float
    low: float
    high: float
    p: float
    detectable: float | None


def resampled(measure: Measure, resamples: int = RESAMPLES) -> FloatArray:
    """The values on documents that are drawn anew, with replacement, within each stratum of each part.

    Returns:
        float64[resamples, models].
    """
    models = measure.parts[0].sums.shape[0]
    ratios = np.empty((resamples, models, len(measure.parts)))
    for number, part in enumerate(measure.parts):
        totals = np.zeros((resamples, models * 2))
        for stratum in np.unique(part.strata):
            chosen = part.sums[:, part.strata == stratum]  # models, documents, 2
            count = chosen.shape[1]
            matrix = chosen.transpose(1, 0, 2).reshape(count, -1)
            draws = np.random.default_rng([_SEED, part.source, int(stratum)])
            step = max(1, _CHUNK // count)
            for first in range(0, resamples, step):
                rows = min(step, resamples - first)
                totals[first : first + rows] += _drawn(draws, rows, count) @ matrix
        sums = totals.reshape(resamples, models, 2)
        ratios[..., number] = sums[..., 0] / sums[..., 1]
    return measure.value(ratios)


def compare(measure: Measure, draws: FloatArray) -> PairedDifference:
    """The difference of the first of two models to the second.

    Args:
        measure: of two models.
        draws: float64[resamples, 2], what :func:`resampled` gives for them.
    """
    ours, theirs = measure.values
    differences = draws[:, 0] - draws[:, 1]
    stderr = float(differences.std(ddof=1))
    low, high = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2])
    unlike = [_unlike(part) for part in measure.parts]
    counted = [one for one in unlike if one is not None]
    detectable = _detectable(measure, counted) if len(counted) == len(unlike) else _told_by(stderr, measure)
    return PairedDifference(float(ours - theirs), stderr, float(low), float(high), p_value(measure), detectable or None)


def p_value(measure: Measure) -> float:
    """How often two models that do not differ would differ as much as the two of a measure; see :class:`PairedDifference`."""
    unlike = _unlike(measure.parts[0]) if len(measure.parts) == 1 else None
    return _swapped_p(measure) if unlike is None else mcnemar(*unlike[:2])


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test: the two-sided p-value of as uneven a division of the documents that one model alone gets right."""
    differing, term, total = gained + lost, 1, 0
    for count in range(min(gained, lost) + 1):
        total += term
        term = term * (differing - count) // (count + 1)
    return min(1.0, 2 * total / (1 << differing))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for being looked at together: of those at most LEVEL, any is wrong in at most that share of cases."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = highest
    return adjusted


def rank_intervals(
    values: Sequence[float], cohorts: Sequence[tuple[Sequence[int], FloatArray]]
) -> list[tuple[int, int]]:
    """95 % intervals of ranks: each holds the rank that the model would have if all documents there are had been asked.

    A model is behind those that are better than it beyond what resampling the documents explains, and before those that are
    worse; the limit is that of the largest of all its differences at once. Models of different cohorts are not told apart.

    Args:
        values: one per model; more is better.
        cohorts: models that answered the same documents, by index, each with its values on documents drawn anew,
            float64[resamples, models].

    Returns:
        Per model the best and the worst rank.
    """
    behind, before = [0] * len(values), [0] * len(values)
    for members, draws in cohorts:
        own = np.array([values[member] for member in members])
        errors = draws - own
        for place, member in enumerate(members):
            gaps = own - own[place]
            noise = errors - errors[:, [place]]
            stderr = noise.std(axis=0, ddof=1)
            noisy = stderr > 1e-12
            largest = np.abs(noise[:, noisy] / stderr[noisy]).max(axis=1) if noisy.any() else np.zeros(1)
            limits = np.quantile(largest, 1 - LEVEL) * stderr
            same = np.array([are_equal(value, own[place]) for value in own])
            behind[member] = int(((gaps > limits) & ~same).sum())
            before[member] = int(((-gaps > limits) & ~same).sum())
    return [(1 + better, len(values) - worse) for better, worse in zip(behind, before, strict=True)]


def _drawn(draws: np.random.Generator, rows: int, count: int) -> FloatArray:
    """How often each of ``count`` documents is among as many that are drawn: float64[rows, count]."""
    chosen = draws.integers(0, count, size=(rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(chosen.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _unlike(part: Ratio) -> tuple[int, int, int] | None:
    """Of a mean of zeros and ones: the documents that the first model alone gets right, those that the second does, and all;
    ``None`` for anything else."""
    if not np.isin(part.sums[..., 0], (0.0, 1.0)).all() or not (part.sums[..., 1] == 1).all():
        return None
    gaps = part.sums[0, :, 0] - part.sums[1, :, 0]
    return int((gaps > 0).sum()), int((gaps < 0).sum()), len(gaps)


def _swapped_p(measure: Measure) -> float:
    """The share of swaps of two models' answers within documents that give as large a difference, by a sample of them.

    For a single part, the ratios are compared, not what is made of them: a perplexity's logarithm is a mean, which makes the
    test sharper, and its order the same.
    """
    ratios, differing = np.empty((SWAPS, 2, len(measure.parts))), 0
    for source in dict.fromkeys(part.source for part in measure.parts):
        numbers = [number for number, part in enumerate(measure.parts) if part.source == source]
        sums = np.concatenate([measure.parts[number].sums for number in numbers], axis=2)
        middle = sums.sum(axis=1).mean(axis=0)  # numerator and denominator of each part
        halves = (sums[0] - sums[1]) / 2
        halves = halves[(halves != 0).any(axis=1)]
        differing += len(halves)
        first = np.take_along_axis(halves, (halves != 0).argmax(axis=1)[:, None], axis=1)
        halves, counts = np.unique(halves * np.sign(first), axis=0, return_counts=True)
        moved = _signed_sums(np.random.default_rng([_SEED, source]), halves, counts)
        for sign, swapped in ((1, ratios[:, 0]), (-1, ratios[:, 1])):
            both = middle + sign * moved
            swapped[:, numbers] = both[:, ::2] / both[:, 1::2]
    value = measure.value if len(measure.parts) > 1 else _only
    ours, theirs = Measure(measure.parts, value).values
    seen = abs(float(ours - theirs))
    noise = 1e-12 * max(abs(float(ours)), abs(float(theirs)))
    if seen <= noise:
        return 1.0
    values = value(ratios)
    swapped = np.abs(values[:, 0] - values[:, 1])
    as_large = int((swapped >= seen * (1 - 1e-9) - noise).sum())
    if as_large >= _FEW:
        return (1 + as_large) / (1 + SWAPS)
    # Beyond what the sample reaches: sums of random signs have lighter tails than the normal distribution of their variance.
    spread = math.sqrt(float((swapped**2).mean()))
    return min(1.0, max(math.erfc(seen / spread / math.sqrt(2)), 2.0 ** (1 - min(differing, 1000))))


def _only(ratios: FloatArray) -> FloatArray:
    return ratios[..., 0]


def _signed_sums(draws: np.random.Generator, rows: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """Sums of rows, each ``counts`` times and each time with a random sign: float64[SWAPS, columns].

    Of very many rows of which none outweighs the others the sums are normal, and are drawn as such.
    """
    squares = counts[:, None] * rows**2
    if len(rows) > _MANY and (squares.max(axis=0) <= squares.sum(axis=0) / 50).all():
        return draws.multivariate_normal(np.zeros(rows.shape[1]), (rows.T * counts) @ rows, SWAPS, method="svd")
    sums = np.zeros((SWAPS, rows.shape[1]))
    step = max(1, _CHUNK // max(len(rows), 1))
    for first in range(0, SWAPS if len(rows) else 0, step):
        size = (min(step, SWAPS - first), len(rows))
        if (counts == 1).all():
            bits = np.unpackbits(draws.integers(0, 256, size=(size[0], -(-size[1] // 8)), dtype=np.uint8), axis=1)
            signs = 2.0 * bits[:, : size[1]] - 1
        else:
            signs = 2.0 * draws.binomial(counts, 0.5, size=size) - counts
        sums[first : first + size[0]] = signs @ rows
    return sums


def _told_by(stderr: float, measure: Measure) -> float:
    """The smallest difference that is told from none with a chance of 80 %, where the documents' values are any numbers: by the
    quantiles of Student's distribution, to the first order, and without what a bootstrap misses of a small sample's spread.

    Documents that weigh more, since they are longer, vary more; so there are fewer that count (Kish, 1965).
    """
    squares = [part.sums[..., 1].mean(axis=0) ** 2 for part in measure.parts]
    free = max(1.0, sum(float(each.sum() ** 2 / (each**2).sum()) - 1 for each in squares))
    quantiles = math.fsum(z + (z * z * z + z) / (4 * free) for z in (_Z_LEVEL, _Z_POWER))
    return quantiles * stderr * math.sqrt(1 + 1 / free)


def _detectable(measure: Measure, unlike: Sequence[tuple[int, int, int]]) -> float | None:
    """The smallest difference that is told from none with a chance of 80 %, for means of zeros and ones.

    Of ``m`` documents of ``n`` that differ, ``x`` more are gained than lost: x - 1 = z(0.975) √m + z(0.8) √(m - x²/n), with the
    1 for the test being exact (Connor, 1987). Where all that differ are not enough, more have to. Documents of several parts
    count by how much each moves the value.
    """
    totals = np.stack([part.sums.sum(axis=1).mean(axis=0) for part in measure.parts])
    moves = np.abs(slopes(measure.value, totals[:, 0] / totals[:, 1])) / np.array([count for *_, count in unlike])
    weights = np.array([gained + lost for gained, lost, _ in unlike], dtype=np.float64)
    step = math.sqrt(float(np.average(moves**2, weights=weights if weights.any() else None)))
    if step == 0:
        return None
    differing, count = float(weights.sum()), 1 / step

    def missing(x: float) -> float:
        differ = max(differing, x)
        spread = math.sqrt(max(differ - x * x / count, 0.0))
        return x - 1 - _Z_LEVEL * math.sqrt(differ) - _Z_POWER * spread

    low, high = 0.0, count
    if missing(high) < 0:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) < 0 else (low, middle)
    return high * step


def slopes(value: Callable[[FloatArray], FloatArray], at: FloatArray) -> FloatArray:
    """How fast a value changes with each part's ratio."""
    steps = 1e-6 * np.eye(len(at))
    found: FloatArray = (value(at + steps) - value(at - steps)) / 2e-6
    return found
