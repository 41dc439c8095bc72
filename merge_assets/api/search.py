"""Look for the best values of places of a recipe: candidates are proposed, built and evaluated until the budget is spent."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_assets.api.candidates import Candidates, fingerprints
from merge_assets.api.score import evaluate
from merge_assets.api.search_plan import checked_search
from merge_assets.errors import MergeAssetsError, SearchError, Stopped
from merge_assets.extras import require
from merge_assets.identity import search_line
from merge_assets.plan import check_alone
from merge_assets.recipe import Objective, Recipe, Search, candidate
from merge_assets.records import VariantDetails
from merge_assets.store import Artifact
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.evaluation.runner import Evaluation
    from merge_assets.evaluation.scores import Scores
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
        labels: of the objectives.
        higher: of each, whether more is better.
        corners: points that tell what the search changes; see :func:`corners_of`.
        listed: a recipe with the checkpoints that it averages.
    """

    recipe: Recipe
    search: Search
    trials: Trials
    study: str
    labels: tuple[str, ...]
    higher: tuple[bool, ...]
    corners: tuple[Recipe, ...]
    listed: Callable[[Recipe], Recipe]

    def candidate(self, trial: Trial) -> Recipe:
        """The recipe of a trial."""
        return self.listed(candidate(self.recipe, trial.number, trial.values))

    def line(self, number: int) -> str:
        """Line of a trial's candidate in the store of candidates."""
        return f"{search_line(self.study)}/trial-{number}"


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

    recipe, suites, higher, corners = checked_search(workspace, name)
    search = recipe.search
    assert search is not None
    of = fingerprints(workspace, workspace.listed(recipe), work)
    content = {
        "recipe": recipe.digest,
        "search": search.model_dump(mode="json", exclude={"trials", "hours", "start"}),
        "suites": {suite: made.digest for suite, made in suites.items()},
        "confirm": {suite: made.confirm for suite, made in suites.items()},
        "models": of,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    study = f"{name}-{digest[:12]}"
    told = (True,) if search.objective[0].weight is not None else higher
    trials = Trials(workspace.settings.searches_url, study, search, told)
    labels = tuple(one.label for one in search.objective)
    return OpenSearch(recipe, search, trials, study, labels, higher, corners, workspace.listed)


def search(
    workspace: Workspace,
    name: str,
    *,
    trials: int | None = None,
    hours: float | None = None,
    workers: int = 1,
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
        workers: candidates that are tried at the same time by this process.
        report: told of every trial that is finished here, one after the other.
        work: told trials finished, the budget, and what is done; asked throughout.

    Raises:
        Stopped: on request.
        SearchError: all trials failed.
        MergeAssetsError: as :func:`open_search`.
    """
    opened = open_search(workspace, name, work.silent())
    budget = opened.search.trials if trials is None else trials
    span = opened.search.hours if hours is None else hours
    deadline = None if span is None else datetime.now(UTC) + timedelta(hours=span)
    ending, telling = threading.Event(), threading.Lock()
    shared = replace(work, should_stop=lambda: ending.is_set() or work.should_stop())

    def go_on(number: int) -> None:
        worker = _Worker(workspace, opened)
        try:
            while (taken := worker.next(budget, deadline, shared)) is not None:
                trial, lease = taken
                with lease.held(shared) as turn:
                    if number == 0:
                        done = sum(one.is_finished for one in opened.trials.all())
                        turn.work.report(done, budget, f"trial {trial.number}: {_shown(trial.values)}")
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
    Candidates(workspace).drop([opened.line(one.number) for one in finished])
    work.report(len(finished), budget, "done")
    if finished and all(one.state == "failed" for one in finished):
        raise SearchError(
            f"{opened.recipe.source.file}: all {len(finished)} trials failed; the first: {finished[0].reason}"
        )
    return opened


class _Worker:
    """One process's part in a search."""

    def __init__(self, workspace: Workspace, opened: OpenSearch) -> None:
        self._workspace = workspace
        self._opened = opened
        self._candidates = Candidates(workspace)
        self._leases: dict[int, Lease] = {}
        self._built: list[str] = []

    def next(self, budget: int, deadline: datetime | None, work: Work) -> tuple[Trial, Lease] | None:
        """A trial that nobody works on: one that was left, or a new one; waits while others work on the last ones."""
        while True:
            work.check("searching")
            everything = self._opened.trials.all()
            running = [trial for trial in everything if trial.state == "running"]
            for trial in running:
                if (lease := self._lease(trial.number)).take():
                    return self._opened.trials.again(trial.number), lease
            begun = sum(trial.state != "waiting" for trial in everything)
            if begun < budget and (deadline is None or datetime.now(UTC) < deadline):
                if (asked := self._asked(budget, work)) is not None:
                    return asked
                continue  # another has begun the last one meanwhile
            if not running:
                return None
            time.sleep(_LOOK)

    def _asked(self, budget: int, work: Work) -> tuple[Trial, Lease] | None:
        """A new trial, unless the budget is spent. Of all workers one asks at a time, or they would begin too many."""
        asking = self._workspace.store.lease(
            search_line(self._opened.study), "ask", task=f"asking for a trial of {self._opened.recipe.name}"
        )
        while not asking.take():
            work.check("searching")
            time.sleep(_TURN)
        with asking.held(work):
            if sum(trial.state != "waiting" for trial in self._opened.trials.all()) >= budget:
                return None
            trial = self._opened.trials.ask()
            lease = self._lease(trial.number)
            return (trial, lease) if lease.take() else None  # another took it for one that was left

    def finish(self, trial: Trial, turn: Turn) -> None:
        """Try a candidate and tell what came of it, unless another has taken it over."""
        try:
            objectives, told = self._tried(trial, turn.work.silent())
        except Stopped:
            raise
        except MergeAssetsError as error:
            turn.confirm()
            self._opened.trials.fail(trial.number, str(error))
        else:
            turn.confirm()
            self._opened.trials.tell(trial.number, objectives, told)

    def _tried(self, trial: Trial, work: Work) -> tuple[list[float], dict[str, Any]]:
        """What a candidate comes to, and what is written down of it."""
        started = time.monotonic()
        recipe = self._opened.candidate(trial)
        check_alone(recipe)
        plan = self._candidates.plan(recipe, self._opened.corners, work)
        line = self._opened.line(trial.number)
        artifact = self._candidates.build(recipe, plan, line, work)
        built = time.monotonic()
        self._forget(line)
        evaluated: dict[str, Scores] = {}
        values = []
        for objective in self._opened.search.objective:
            if objective.suite is None:
                values.append(float(plan.parameter_count))
                continue
            if objective.suite not in evaluated:
                evaluated[objective.suite] = self._evaluated(artifact, objective.suite, work).scores
            values.append(value_of(evaluated[objective.suite], objective))
        told = {
            "fingerprint": artifact.version,
            "objectives": dict(zip(self._opened.labels, values, strict=True)),
            "merge_seconds": built - started,
            "evaluation_seconds": time.monotonic() - built,
            "bytes_linked": artifact.manifest.described(VariantDetails).report.bytes_linked,
        }
        return _told(values, self._opened), told

    def _evaluated(self, artifact: Artifact, suite: str, work: Work) -> Evaluation:
        confirm = self._workspace.suites[suite].confirm
        return evaluate(
            self._workspace,
            artifact.directory(Path(self._workspace.cache) / "artifacts"),
            suite,
            documents="all" if confirm is None else "search",
            fingerprint=artifact.version,
            work=work,
        )

    def _forget(self, line: str) -> None:
        """Remove the candidate before the last: the last one lends its files to the next."""
        self._candidates.drop(self._built[:-1])
        self._built = [*self._built[-1:], line]

    def _lease(self, number: int) -> Lease:
        if number not in self._leases:
            task = f"trial {number} of {self._opened.recipe.name}"
            self._leases[number] = self._workspace.store.lease(
                search_line(self._opened.study), f"trial-{number}", task=task
            )
        return self._leases[number]


def value_of(scores: Scores, objective: Objective) -> float:
    """What scores come to by one objective.

    Raises:
        SearchError: they have no such value, or it is not of all tasks.
    """
    if objective.task is None:
        if scores.headline is None or scores.part:
            raise SearchError(f"the headline of {scores.suite} is of {scores.part or 'no'} tasks: {scores.failed}")
        return scores.headline
    for row in scores.tasks:
        if row.task == objective.task and objective.metric in (None, row.metric):
            return row.value
    raise SearchError(f"{objective.label} has no value: {scores.failed}")


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
