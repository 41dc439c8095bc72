"""Look for the best values of places of a recipe: candidates are proposed, built and evaluated until the budget is spent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_assets.api.candidates import Candidates, fingerprints
from merge_assets.api.halving import Evaluations, Races, parts_of
from merge_assets.api.objectives import value_of
from merge_assets.api.score import evaluate
from merge_assets.api.search_plan import checked_search
from merge_assets.api.trying import Trying
from merge_assets.errors import CheckpointError, MergeAssetsError, SearchError, Stopped
from merge_assets.extras import require
from merge_assets.identity import search_line
from merge_assets.plan import Together, check_alone
from merge_assets.plan.model import digest_of
from merge_assets.recipe import Recipe, Search, candidate
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Workspace
from merge_assets.workspace.searches import search_code, study_code

if TYPE_CHECKING:
    from merge_assets.evaluation.runner import Evaluation
    from merge_assets.evaluation.suite_task import Documents
    from merge_assets.search.trials import Trial, Trials
    from merge_assets.store import Turn
    from merge_assets.store.lease import Lease

_LOOK = 0.5
"""Seconds between two looks at trials that others work on."""

_TURN = 0.05
"""Seconds between two looks whether somebody else is asking for a trial."""

Report = Callable[["Trial"], None]


@dataclass(frozen=True)
class OpenSearch:
    """A search and its trials.

    Attributes:
        recipe: with ``search``.
        search: what it says.
        trials: kept in Optuna's storage.
        study: what the storage calls them: the search's name and a digest of all that a candidate's values depend on. Another
            space, other suites or other bytes of a model are another study.
        key: of what is found within the budget.
        models: the fingerprint of every model that a candidate may be made of, by its reference.
        labels: of the objectives.
        higher: of each, whether more is better.
        together: which files all candidates share.
        listed: a recipe with the checkpoints that it averages.
    """

    recipe: Recipe
    search: Search
    trials: Trials
    study: str
    key: str
    models: Mapping[str, str]
    labels: tuple[str, ...]
    higher: tuple[bool, ...]
    together: Together
    listed: Callable[[Recipe], Recipe]

    def candidate(self, trial: Trial) -> Recipe:
        """The recipe of a trial."""
        return self.listed(candidate(self.recipe, trial.number, trial.values))

    def line(self, number: int) -> str:
        """Line of a trial's candidate in the store of candidates."""
        return f"{search_line(self.study)}/trial-{number}"

    def line_beside(self, number: int) -> str:
        """Line of the best candidate, made again to be compared with a trial."""
        return f"{self.line(number)}-best"


def open_search(workspace: Workspace, name: str, work: Work = UNATTENDED) -> OpenSearch:
    """A search with what was found so far.

    Args:
        workspace: the project.
        name: of the search.
        work: asked while models are fetched and digested, whose bytes the trials are of.

    Raises:
        RecipeError: there is no such search, its space does not fit the recipe, or a point of it cannot be planned.
        SearchError: an objective is of no suite, or of no task of it; the trials cannot be read.
    """
    require("optuna")
    from merge_assets.search.trials import Trials

    checked = checked_search(workspace, name)
    recipe, search, suites, higher = checked.recipe, checked.search, checked.suites, checked.higher
    of = _models_of(workspace, name, work)
    listed = workspace.listed(recipe)
    study = f"{name}-{digest_of({'code': study_code(listed, suites), 'models': of})[:12]}"
    key = digest_of({"code": search_code(listed, suites), "models": of})
    told = (True,) if search.objective[0].weight is not None else higher
    trials = Trials(workspace.settings.searches_url, study, search, told)
    trials.begin_with_best_before(name)
    labels = tuple(one.label for one in search.objective)
    together = Together(checked.corners)
    return OpenSearch(recipe, search, trials, study, key, of, labels, higher, together, workspace.listed)


def _models_of(workspace: Workspace, name: str, work: Work) -> dict[str, str]:
    """The fingerprints of all models that candidates may be made of; with one that is nowhere, trials fail."""
    as_written, *others = workspace.book.searched[name]
    found = fingerprints(workspace, workspace.listed(as_written), work)
    for point in others:
        if any(str(reference) not in found for reference in point.references()):
            try:
                workspace.names.check_models(point)
            except CheckpointError:
                continue
            found |= fingerprints(workspace, workspace.listed(point), work)
    return found


def search(
    workspace: Workspace,
    name: str,
    *,
    trials: int | None = None,
    hours: float | None = None,
    documents: int | None = None,
    workers: int = 1,
    opened: OpenSearch | None = None,
    report: Report = lambda trial: None,
    work: Work = UNATTENDED,
) -> OpenSearch:
    """Try candidates until as many are finished as the budget says; what was tried before counts.

    Any number of processes may search at once. A candidate that a process left unfinished, because it was stopped or killed, is
    taken up by whoever comes first. One that cannot be built or evaluated is a failed trial with its reason.

    Args:
        workspace: the project.
        name: of the search.
        trials: in the place of what the search says.
        hours: likewise.
        documents: likewise.
        workers: candidates that are tried at the same time by this process.
        opened: the search, where it was opened a moment ago.
        report: told of every trial that is finished here, one after the other.
        work: told trials finished, the budget, and what is done; asked throughout.

    Raises:
        Stopped: on request.
        SearchError: all trials failed.
        MergeAssetsError: as :func:`open_search`.
    """
    opened = opened or open_search(workspace, name, work.silent())
    budget = Budget.of(opened.search, trials, hours, documents)
    ending, telling = threading.Event(), threading.Lock()
    shared = replace(work, should_stop=lambda: ending.is_set() or work.should_stop())

    def go_on(number: int) -> None:
        try:
            with Trying(workspace, opened.together) as trying:
                worker = _Worker(workspace, opened, trying)
                while (taken := worker.next(budget, shared)) is not None:
                    trial, lease = taken
                    with lease.held(shared) as turn:
                        if number == 0:
                            done = sum(one.is_finished for one in opened.trials.all())
                            turn.work.report(done, budget.trials, f"trial {trial.number}: {_shown(trial.values)}")
                        worker.finish(trial, turn)
                    with telling:
                        report(opened.trials.all()[trial.number])
        except BaseException:
            ending.set()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="search") as pool:
        for ended in as_completed([pool.submit(go_on, number) for number in range(workers)]):
            ended.result()
    finished = [one for one in opened.trials.all() if one.is_finished]
    # Also those of workers that were killed or stopped; what was evaluated is kept.
    Candidates(workspace).drop([line(one.number) for one in finished for line in (opened.line, opened.line_beside)])
    work.report(len(finished), budget.trials, "done")
    if finished and all(one.state == "failed" for one in finished):
        raise SearchError(
            f"{opened.recipe.source.file}: all {len(finished)} trials failed; the first: {finished[0].reason}"
        )
    return opened


@dataclass(frozen=True)
class Budget:
    """Until when candidates are begun.

    Attributes:
        trials: how many.
        deadline: no later than that.
        documents: as long as fewer were asked of all that are finished.
    """

    trials: int
    deadline: datetime | None
    documents: int | None

    @classmethod
    def of(
        cls, search: Search, trials: int | None = None, hours: float | None = None, documents: int | None = None
    ) -> Budget:
        """What a search says, or what is given in its place, from now on."""
        span = search.hours if hours is None else hours
        return cls(
            search.trials if trials is None else trials,
            None if span is None else datetime.now(UTC) + timedelta(hours=span),
            search.documents if documents is None else documents,
        )

    def allows(self, trials: Sequence[Trial]) -> bool:
        """Whether one more may be begun."""
        asked = sum(trial.told.get("documents", 0) for trial in trials)
        return (
            sum(trial.state != "waiting" for trial in trials) < self.trials
            and (self.deadline is None or datetime.now(UTC) < self.deadline)
            and (self.documents is None or asked < self.documents)
        )


class _Worker:
    """One process's part in a search."""

    def __init__(self, workspace: Workspace, opened: OpenSearch, trying: Trying) -> None:
        self._workspace = workspace
        self._opened = opened
        self._trying = trying
        self._leases: dict[int, Lease] = {}
        self._races = Races(opened, self._again) if opened.search.halving else None

    def next(self, budget: Budget, work: Work) -> tuple[Trial, Lease] | None:
        """A trial that nobody works on: one that was left, or a new one; waits while others work on the last ones."""
        while True:
            work.check("searching")
            everything = self._opened.trials.all()
            running = [trial for trial in everything if trial.state == "running"]
            for trial in running:
                if (lease := self._lease(trial.number)).take():
                    return self._opened.trials.again(trial.number), lease
            if budget.allows(everything):
                if (asked := self._asked(budget, work)) is not None:
                    return asked
                continue  # another has begun the last one meanwhile
            if not running:
                return None
            time.sleep(_LOOK)

    def _asked(self, budget: Budget, work: Work) -> tuple[Trial, Lease] | None:
        """A new trial, unless the budget is spent. Of all workers one asks at a time, or they would begin too many."""
        asking = self._workspace.store.lease(
            search_line(self._opened.study), "ask", task=f"asking for a trial of {self._opened.recipe.name}"
        )
        while not asking.take():
            work.check("searching")
            time.sleep(_TURN)
        with asking.held(work):
            if not budget.allows(self._opened.trials.all()):
                return None
            if (trial := self._opened.trials.ask()) is None:
                return None
            lease = self._lease(trial.number)
            return (trial, lease) if lease.take() else None  # another took it for one that was left

    def finish(self, trial: Trial, turn: Turn) -> None:
        """Try a candidate and tell what came of it, unless another has taken it over."""
        try:
            objectives, lost, told = self._tried(trial, turn)
        except Stopped:
            raise
        except MergeAssetsError as error:
            if error.may_pass:  # says nothing of the candidate, which is tried again
                raise
            turn.confirm()
            self._opened.trials.fail(trial.number, str(error))
        else:
            turn.confirm()
            if lost:
                self._opened.trials.give_up(trial.number, lost, told)
            else:
                self._opened.trials.tell(trial.number, objectives, told)

    def _tried(self, trial: Trial, turn: Turn) -> tuple[list[float], str, dict[str, Any]]:
        """What a candidate comes to, why it is given up, and what is written down of it."""
        from merge_assets.search.same import PLAN, same_merge, taken_from

        work = turn.work.silent()
        started = time.monotonic()
        recipe = self._opened.candidate(trial)
        check_alone(recipe)
        plan = self._trying.plan(recipe, work)
        if (first := same_merge(self._opened.trials.all(), plan.key)) is not None:
            return list(first.objectives), "", taken_from(first)
        tried = self._trying.make(recipe, plan, self._opened.line(trial.number), work)
        built = time.monotonic()
        race = None if self._races is None else self._races.race(trial)
        lost = ""

        def ask(suite: str, part: Documents) -> Evaluation:
            return self._trying.evaluate(tried, suite, part, work)

        for step, documents in enumerate(parts_of(self._opened)):
            evaluated = self._evaluated(ask, documents)
            values = [
                float(plan.parameter_count)
                if objective.suite is None
                else value_of(evaluated[objective.suite].scores, objective)
                for objective in self._opened.search.objective
            ]
            if race is None or documents == "search":
                break
            turn.confirm()
            self._opened.trials.report(trial.number, step, _told(values, self._opened)[0])
            if lost := race.lost(documents, evaluated, work):
                break
        told = {
            PLAN: plan.key,
            "fingerprint": tried.fingerprint,
            "stored": tried.stored,
            "objectives": dict(zip(self._opened.labels, values, strict=True)),
            "documents": sum(_asked_of(one) for one in evaluated.values()),
            "merge_seconds": built - started,
            "evaluation_seconds": time.monotonic() - built,
            "bytes_linked": tried.bytes_linked,
        }
        return _told(values, self._opened), lost, told

    def _evaluated(self, ask: Callable[[str, Documents], Evaluation], documents: Documents) -> dict[str, Evaluation]:
        """Per suite, the evaluation of a candidate on the documents that a search may see, or a part of them."""
        suites = dict.fromkeys(one.suite for one in self._opened.search.objective if one.suite is not None)
        confirm = {suite: self._workspace.suites[suite].confirm for suite in suites}
        return {suite: ask(suite, documents if confirm[suite] is not None else "all") for suite in suites}

    def _again(self, best: Trial, beside: int, documents: Documents, work: Work) -> Evaluations:
        """The evaluations of a trial that another worker has finished; on this machine they are in the cache."""
        recipe, candidates = self._opened.candidate(best), Candidates(self._workspace)
        plan = candidates.plan(recipe, self._opened.together, work)
        line = self._opened.line_beside(beside)
        artifact = candidates.build(recipe, plan, line, work)
        folder = artifact.directory(Path(self._workspace.cache) / "artifacts")

        def ask(suite: str, part: Documents) -> Evaluation:
            return evaluate(self._workspace, folder, suite, documents=part, fingerprint=artifact.version, work=work)

        evaluated = self._evaluated(ask, documents)
        candidates.drop([line])
        return evaluated

    def _lease(self, number: int) -> Lease:
        if number not in self._leases:
            task = f"trial {number} of {self._opened.recipe.name}"
            self._leases[number] = self._workspace.store.lease(
                search_line(self._opened.study), f"trial-{number}", task=task
            )
        return self._leases[number]


def _asked_of(evaluation: Evaluation) -> int:
    """Documents of all tasks of an evaluation."""
    counts = {stored.result.key: stored.result.samples for stored in evaluation.results}
    return sum(count.effective for tasks in counts.values() for count in tasks.values())


def _told(values: Sequence[float], opened: OpenSearch) -> list[float]:
    """The values that the sampler is told: all, or one weighted sum, of which more is better."""
    weights = [one.weight for one in opened.search.objective]
    if weights[0] is None:
        return list(values)
    signs = [1 if more else -1 for more in opened.higher]
    return [sum(w * s * v for w, s, v in zip(weights, signs, values, strict=True) if w is not None)]


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{path}: {value:.4g}" if isinstance(value, float) else f"{path}: {value}" for path, value in values.items()
    )
