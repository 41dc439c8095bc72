"""Give candidates of a search up that are worse than the best so far, before all documents are asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from merge_assets.api.objectives import metric_of
from merge_assets.work import Work

if TYPE_CHECKING:
    from merge_assets.api.search import OpenSearch
    from merge_assets.evaluation.pairs import Sheet
    from merge_assets.evaluation.runner import Evaluation
    from merge_assets.evaluation.suite_task import Documents
    from merge_assets.search.trials import Trial

Evaluations = Mapping[str, "Evaluation"]
"""Per suite."""

Again = Callable[["Trial", int, "Documents", Work], Evaluations]
"""The evaluations of a trial that is done, beside which one it is wanted, on a part of the documents."""


def parts_of(opened: OpenSearch) -> list[Documents]:
    """What is asked of a candidate of a search with halving, one after the other; the last is all that a search may see."""
    halving = opened.search.halving
    return [*(cast("Documents", f"search/{part}") for part in (halving.parts if halving else ())), "search"]


class Races:
    """What one worker knows of the best candidate, by parts of the documents.

    Args:
        opened: the search.
        again: asked for evaluations of the best that this worker has not made.
    """

    def __init__(self, opened: OpenSearch, again: Again) -> None:
        self.opened = opened
        self._again = again
        self._known: dict[int, dict[Documents, Sheet]] = {}

    def race(self, trial: Trial) -> Race:
        """Begin with a trial."""
        best = self.opened.trials.best()
        wanted = {trial.number, *(one.number for one in best)}
        self._known = {number: sheets for number, sheets in self._known.items() if number in wanted}
        return Race(self, trial.number, best[0] if best else None)

    def keep(self, number: int, documents: Documents, evaluated: Evaluations) -> Sheet:
        """A trial's values, document by document.

        Raises:
            UnmatchedError: they do not follow from its documents.
        """
        from merge_assets.evaluation.pairs import sheet_of
        from merge_assets.evaluation.samples import samples_of_results
        from merge_assets.evaluation.sequential import weighted

        samples = {suite: samples_of_results(one.results) for suite, one in evaluated.items()}
        sheets = []
        for objective, more in zip(self.opened.search.objective, self.opened.higher, strict=True):
            suite = objective.suite or ""
            scores = evaluated[suite].scores
            sheet = sheet_of(scores, objective.task, metric_of(scores, objective), samples[suite])
            weight = 1.0 if objective.weight is None else float(objective.weight)
            sheets.append((suite, sheet, weight if more else -weight))
        return self._known.setdefault(number, {}).setdefault(documents, weighted(sheets))

    def of_best(self, best: Trial, beside: int, documents: Documents, work: Work) -> Sheet:
        """The best one's values, document by document."""
        if (known := self._known.get(best.number, {}).get(documents)) is not None:
            return known
        return self.keep(best.number, documents, self._again(best, beside, documents, work))


class Race:
    """One trial against the best so far; see :meth:`Races.race`."""

    def __init__(self, races: Races, number: int, best: Trial | None) -> None:
        from merge_assets.evaluation.sequential import PairedEvidence

        rule = races.opened.search.halving
        assert rule is not None
        self._races = races
        self._number = number
        self._best = best
        self._level = rule.level
        self._evidence = PairedEvidence(rule.level)

    def lost(self, documents: Documents, evaluated: Evaluations, work: Work) -> str:
        """Why the trial is given up after a part of the documents; empty while nothing says that it is worse."""
        from merge_assets.evaluation.pairs import UnmatchedError, measure_of

        try:
            ours = self._races.keep(self._number, documents, evaluated)
            if self._best is None:
                return ""
            theirs = self._races.of_best(self._best, self._number, documents, work)
        except UnmatchedError:
            return ""  # nothing can be told before the end
        part = int(documents.partition("/")[2] or 1)
        if ours.cohort != theirs.cohort:
            return ""
        found = self._evidence.of(measure_of([ours, theirs]), 1 / part)
        if found < 1 / self._level:
            return ""
        return f"worse than trial {self._best.number} on 1/{part} of the documents (evidence {found:.3g})"
