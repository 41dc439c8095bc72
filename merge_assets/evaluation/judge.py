"""Verdicts over all differences that are shown together, and intervals of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from merge_assets.evaluation.pairs import (
    Sheet,
    UnmatchedError,
    measure_of,
    sheet_of,
    why_unmatched,
)
from merge_assets.evaluation.samples import FloatArray, SuiteSamples
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.statistics import LEVEL, PairedDifference, compare, holm, rank_intervals, resampled
from merge_assets.evaluation.verdicts import Pair, Verdict, Word

SamplesOf = Callable[[Scores], SuiteSamples]
"""The samples of a model's scores; empty where none are kept."""

_Column = tuple[str, str | None, str | None]
"""Suite, task and metric."""


class Judge:
    """Compares models document by document; what one evaluation's documents say is worked out once.

    Args:
        samples: asked once for each scores.
    """

    def __init__(self, samples: SamplesOf) -> None:
        self._samples_of = samples
        self._scores: dict[int, tuple[Scores, SuiteSamples]] = {}  # kept with them, so that an id stays what it is of
        self._sheets: dict[tuple[int, _Column], Sheet | str] = {}

    def verdicts(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One for each pair. They are adjusted for each other, by Holm: all that a page shows belongs into one call."""
        columns: dict[_Column, list[Scores]] = {}
        for pair in pairs:
            columns.setdefault(_column(pair), []).extend([pair.ours, pair.theirs])
        cohorts = {column: self._cohorts(column, involved) for column, involved in columns.items()}
        found = [self._compared(pair, cohorts[_column(pair)]) for pair in pairs]
        adjusted = iter(holm([one.p for one in found if isinstance(one, PairedDifference)]))
        return [
            Verdict("cannot tell", why=one) if isinstance(one, str) else _verdict(pair, one, next(adjusted))
            for pair, one in zip(pairs, found, strict=True)
        ]

    def rank_intervals(
        self, scores: Sequence[Scores], values: Sequence[float], task: str | None, metric: str | None, *, higher: bool
    ) -> list[tuple[int, int]]:
        """The best and the worst rank that each model may have by a column.

        Args:
            scores: of one suite, one per model.
            values: one per model.
            task: None for the headline.
            metric: None for the headline.
            higher: whether more is better.
        """
        sign = 1.0 if higher else -1.0
        place = {id(one): index for index, one in enumerate(scores)}
        cohorts = self._cohorts((scores[0].suite, task, metric), scores) if scores else {}
        found = [
            ([place[one] for one in cohort.members], sign * cohort.draws) for cohort in dict.fromkeys(cohorts.values())
        ]
        return rank_intervals([sign * value for value in values], found)

    def _compared(self, pair: Pair, cohorts: Mapping[int, _Cohort]) -> PairedDifference | str:
        """The difference, or why there is none."""
        sheets = [self._sheet(scores, _column(pair)) for scores in (pair.ours, pair.theirs)]
        for scores, sheet in zip((pair.ours, pair.theirs), sheets, strict=True):
            if isinstance(sheet, str):
                return f"{scores.model}: {sheet}"
        ours, theirs = cohorts[id(pair.ours)], cohorts[id(pair.theirs)]
        if ours is not theirs:
            return why_unmatched(*(sheet for sheet in sheets if isinstance(sheet, Sheet)))
        return ours.compare(id(pair.ours), id(pair.theirs))

    def _cohorts(self, column: _Column, scores: Sequence[Scores]) -> dict[int, _Cohort]:
        """Per model whose documents are known, by the id of its scores, the models that were asked the same."""
        members: dict[str, dict[int, Sheet]] = {}
        for one in scores:
            if isinstance(sheet := self._sheet(one, column), Sheet):
                members.setdefault(sheet.cohort, {})[id(one)] = sheet
        return {model: made for sheets in members.values() for made in [_Cohort(sheets)] for model in sheets}

    def _sheet(self, scores: Scores, column: _Column) -> Sheet | str:
        name = (id(scores), column)
        if name not in self._sheets:
            if id(scores) not in self._scores:
                self._scores[id(scores)] = (scores, self._samples_of(scores))
            try:
                made = sheet_of(scores, *column[1:], self._scores[id(scores)][1])
            except UnmatchedError as error:
                self._sheets[name] = str(error)
            else:
                self._sheets[name] = made
        return self._sheets[name]


class _Cohort:
    """Models that were asked the same, on documents that are drawn anew for all of them at once."""

    def __init__(self, sheets: Mapping[int, Sheet]) -> None:
        self.members = list(sheets)
        self._measure = measure_of(list(sheets.values()))

    @cached_property
    def draws(self) -> FloatArray:
        """float64[resamples, models]."""
        return resampled(self._measure)

    def compare(self, ours: int, theirs: int) -> PairedDifference:
        two = [self.members.index(ours), self.members.index(theirs)]
        return compare(self._measure.of(two), self.draws[:, two])


def _column(pair: Pair) -> _Column:
    return pair.ours.suite, pair.task, pair.metric


def _verdict(pair: Pair, found: PairedDifference, adjusted: float) -> Verdict:
    word: Word = "cannot tell"
    if adjusted <= LEVEL:
        word = "better" if (found.difference > 0) == pair.higher_is_better else "worse"
    return Verdict(word, found, adjusted)
