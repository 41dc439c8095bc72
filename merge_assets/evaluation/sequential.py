"""Evidence that one model is worse than another, which may be looked at after any number of documents.

Two models that do not differ may have their answers to a document swapped, which changes the sign of what the document adds to
their difference: the null hypothesis of the comparisons of the leaderboard. Let ``d`` be what the documents asked so far add, S
minus their sum and V the sum of their squares. For every λ > 0, exp(λS - λ²V/2) is then a non-negative supermartingale of mean
at most 1 (since cosh x ≤ exp(x²/2); de la Peña, 1999), also where the first model is the better one, and so is its mean over
λ = |N(0, ρ²)|,

    2 / √(1 + ρ²V) · exp(z²/2) · Φ(z),    z = ρS / √(1 + ρ²V).

That it ever exceeds 1/α has a chance of at most α (Ville, 1939), however often one looks and whenever one ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from merge_assets.evaluation.pairs import Asked, Sheet
from merge_assets.evaluation.samples import FloatArray
from merge_assets.evaluation.statistics import Measure, slopes


def weighted(sheets: Sequence[tuple[str, Sheet, float]]) -> Sheet:
    """One model's sum of columns, by documents.

    Args:
        sheets: of each column the suite, its sheet, and the weight of its value; below 0 where less is better.
    """
    ends = np.cumsum([len(sheet.parts) for _, sheet, _ in sheets])[:-1]
    weights = [weight for *_, weight in sheets]

    def value(ratios: FloatArray) -> FloatArray:
        split = np.split(ratios, ends, axis=-1)
        found: FloatArray = sum(
            (weight * sheet.value(own) for (_, sheet, weight), own in zip(sheets, split, strict=True)),
            start=np.zeros(ratios.shape[:-1]),
        )
        return found

    parts: list[tuple[FloatArray, NDArray[np.int64], str]] = [
        (sums, strata, f"{suite}: {name}") for suite, sheet, _ in sheets for sums, strata, name in sheet.parts
    ]
    asked: dict[str, Asked] = {
        f"{suite}: {task}": one for suite, sheet, _ in sheets for task, one in sheet.asked.items()
    }
    return Sheet(parts, value, asked, f"{weights} of {[(suite, sheet.shape) for suite, sheet, _ in sheets]}")


def differences(measure: Measure) -> FloatArray:
    """What each document adds to the difference of the first of two models to the second, to the first order.

    Args:
        measure: of two models.

    Returns:
        float64[documents]: of those of all parts; one that is in several parts is there once.
    """
    totals = np.stack([part.sums.sum(axis=1) for part in measure.parts])  # parts, models, 2
    steepness = slopes(measure.value, (totals[..., 0] / totals[..., 1]).mean(axis=1))
    added: dict[int, FloatArray] = {}
    for part, total, slope in zip(measure.parts, totals, steepness, strict=True):
        moved = slope * (part.sums[0, :, 0] / total[0, 1] - part.sums[1, :, 0] / total[1, 1])
        added[part.source] = added.get(part.source, 0.0) + moved
    return np.concatenate(list(added.values()))


class PairedEvidence:
    """How much speaks for a model being worse than another, as more and more documents are asked.

    Args:
        level: at which it will be believed. Which differences are found soonest is chosen by it, and by how much the documents
            of the first part differ, not in which direction.
    """

    def __init__(self, level: float) -> None:
        self._tuned = 2 * math.log(1 / level) + math.log(1 + 2 * math.log(1 / level))
        self._squared = 0.0  # ρ²

    def of(self, measure: Measure, part: float) -> float:
        """The evidence of the documents so far: 1 is none, 1/α is believed at the level α.

        Args:
            measure: of the two on these documents.
            part: of all documents, in (0, 1].
        """
        added = part * differences(measure)
        squares = float(added @ added)
        if not squares:
            return 1.0
        if not self._squared:
            self._squared = self._tuned / (squares / math.sqrt(part))  # sharpest midway to all documents
        grown = 1 + self._squared * squares
        z = -math.sqrt(self._squared / grown) * float(added.sum())
        return math.exp(min(z * z / 2, 700.0)) * math.erfc(-z / math.sqrt(2)) / math.sqrt(grown)
