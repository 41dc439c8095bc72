"""Whether what a search found is better than the models that it is made of, or others, on documents that it did not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.candidates import Candidates
from merge_assets.api.objectives import metric_of, value_of
from merge_assets.api.score import evaluate
from merge_assets.api.search import OpenSearch
from merge_assets.reference import ModelReference
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace

if TYPE_CHECKING:
    from merge_assets.evaluation.runner import Evaluation
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite_task import Documents
    from merge_assets.evaluation.verdicts import Pair, Verdict
    from merge_assets.search.trials import Trial


@dataclass(frozen=True)
class Confirmed:
    """A trial beside another model, by one objective.

    Attributes:
        model: the other.
        objective: what they are compared by.
        searched: how much better the trial is on the documents that the search saw, in the objective's unit.
        confirmed: the same on the documents that it did not see; ``None`` where the suite keeps none from a search.
        verdict: of the last; of the first where that is ``None``.
        interval: the 95 % interval of what the verdict is of; ``None`` where the documents of the two cannot be matched.
    """

    model: str
    objective: str
    searched: float
    confirmed: float | None
    verdict: Verdict
    interval: tuple[float, float] | None

    @property
    def too_good(self) -> float | None:
        """By how much the search's own figure was too good."""
        return None if self.confirmed is None else self.searched - self.confirmed


def confirm(
    workspace: Workspace,
    opened: OpenSearch,
    trial: Trial,
    work: Work = UNATTENDED,
    *,
    beside: Sequence[ModelReference] = (),
) -> list[Confirmed]:
    """Compare a trial with every model that its recipe names, document by document.

    Args:
        workspace: the project.
        opened: the search.
        trial: of it, which is done.
        work: asked throughout.
        beside: models that it is compared with, too; a recipe's name stands for its variant in the store.

    Raises:
        MergeAssetsError: a model cannot be had or evaluated.
    """
    from merge_assets.evaluation.judge import Judge
    from merge_assets.evaluation.samples import samples_of_results
    from merge_assets.evaluation.verdicts import Pair

    candidates, line = Candidates(workspace), opened.line(trial.number)
    recipe = opened.candidate(trial)
    plan = candidates.plan(recipe, opened.together, work)
    artifact = candidates.build(recipe, plan, line, work.silent())
    folder = artifact.directory(Path(workspace.cache) / "artifacts")
    models = Models(workspace)
    parents = [reference.model for reference in recipe.references() if not workspace.book.resolve_folded(reference)]
    folders = {str(one): Path(models.fetch(one, work=work.silent()).checkpoint.location) for one in (*parents, *beside)}
    evaluations: dict[int, Evaluation] = {}

    @cache  # the trial's own are compared with those of every model
    def scores_of(directory: Path, suite: str, documents: Documents) -> Scores:
        known = artifact.version if directory == folder else None
        made = evaluate(workspace, directory, suite, documents=documents, fingerprint=known, work=work)
        evaluations[id(made.scores)] = made
        return made.scores

    compared = [(name, objective) for objective in opened.search.objective if objective.suite for name in folders]
    pairs: list[Pair] = []
    gains: list[tuple[float, float | None]] = []
    for name, objective in compared:
        suite = objective.suite or ""
        higher = opened.higher[opened.search.objective.index(objective)]
        parts: tuple[Documents, ...] = (
            ("search", "confirm") if workspace.suites[suite].confirm is not None else ("all",)
        )
        gained = []
        for part in parts:
            ours, theirs = (scores_of(directory, suite, part) for directory in (folder, folders[name]))
            sign = 1 if higher else -1
            gained.append(sign * (value_of(ours, objective) - value_of(theirs, objective)))
        pairs.append(Pair(ours, theirs, objective.task, metric_of(ours, objective), higher))
        gains.append((gained[0], gained[1] if len(gained) > 1 else None))
    judge = Judge(lambda scores: samples_of_results(evaluations[id(scores)].results))
    verdicts = judge.verdicts(pairs)
    candidates.drop([line])
    return [
        Confirmed(name, objective.label, *gain, verdict, _interval(verdict, pair))
        for (name, objective), gain, verdict, pair in zip(compared, gains, verdicts, pairs, strict=True)
    ]


def _interval(verdict: Verdict, pair: Pair) -> tuple[float, float] | None:
    """Of how much better, not of how much more."""
    if (found := verdict.found) is None:
        return None
    return (found.low, found.high) if pair.higher_is_better else (-found.high, -found.low)
