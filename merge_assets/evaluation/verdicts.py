"""What is said of a difference between two models: better, worse, or that the documents cannot tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.statistics import PairedDifference

Word = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Pair:
    """Two models' values of one column, to be compared document by document.

    Attributes:
        ours: scores of the model that is spoken of.
        theirs: scores of the one that it is compared with.
        task: None for the headline.
        metric: None for the headline.
        higher_is_better: of the metric.
    """

    ours: Scores
    theirs: Scores
    task: str | None
    metric: str | None
    higher_is_better: bool


@dataclass(frozen=True)
class Verdict:
    """What is known of a difference.

    Attributes:
        word: "better" or "worse" where ``adjusted`` is at most 5 %.
        found: the difference with its interval; None where the documents of the two cannot be matched.
        adjusted: the p-value after Holm, over all that is shown together.
        why: why nothing can be told where ``found`` is None.
    """

    word: Word
    found: PairedDifference | None = None
    adjusted: float | None = None
    why: str = ""


UNKNOWN = Verdict("cannot tell", why="no samples of it are kept")


def are_equal(one: float, other: float) -> bool:
    """Whether two values differ by no more than the last digits of their arithmetic."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)
