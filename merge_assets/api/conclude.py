"""A search brought to its end: what it found is compared with what it is made of, and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from merge_assets.api.confirm import Confirmed, confirm
from merge_assets.api.search import OpenSearch, Report, open_search, search
from merge_assets.errors import SearchError
from merge_assets.identity import search_line
from merge_assets.plan.model import digest_of
from merge_assets.recipe.resolved import plain_yaml
from merge_assets.records import FoundTrial, SearchDetails, TrialBeside
from merge_assets.store import Artifact, Turn
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace
from merge_assets.yamlfile import parse_documents

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

TABLE = "trials.csv"


@dataclass(frozen=True)
class Concluded:
    """A search that has come to its end.

    Attributes:
        artifact: what it found, in the store.
        opened: its trials.
        reused: whether nothing had to be tried or compared, or another process did it.
        compared: what was found beside the models that it is made of, by trial; empty if that was not compared here.
    """

    artifact: Artifact
    opened: OpenSearch
    reused: bool
    compared: Mapping[int, list[Confirmed]]


def conclude(
    workspace: Workspace,
    name: str,
    *,
    workers: int = 1,
    opened: OpenSearch | None = None,
    report: Report = lambda trial: None,
    work: Work = UNATTENDED,
) -> Concluded:
    """Search within the budget that the recipe gives, compare what is best with the models that it is made of, and keep that,
    unless the store has it.

    Any number of processes may do so at once: they share the trials, and one of them compares.

    Args:
        workspace: whose store it is kept in.
        name: of the search.
        workers: candidates that are tried at the same time by this process.
        opened: the search, where it was opened a moment ago.
        report: told of every trial that is finished here, one after the other.
        work: told trials finished, the budget, and what is done; asked throughout. What was tried until a stop is kept.

    Raises:
        Stopped: on request.
        SearchError: all trials failed, or none was begun in time.
        MergeAssetsError: as :func:`~merge_assets.api.search.open_search` and :func:`~merge_assets.api.confirm.confirm`.
    """
    started, line = datetime.now(UTC), search_line(name)
    opened = opened or open_search(workspace, name, work.silent())
    if (there := workspace.store.reuse(line, opened.key)) is not None:
        return Concluded(there, opened, reused=True, compared={})
    search(workspace, name, workers=workers, opened=opened, report=report, work=work)
    compared: dict[int, list[Confirmed]] = {}

    def make(turn: Turn) -> Artifact:
        best = best_of(opened)
        for trial in best:
            turn.work.report(opened.search.trials, opened.search.trials, f"comparing trial {trial.number}")
            compared[trial.number] = confirm(workspace, opened, trial, turn.work.silent())
        return _kept(workspace, opened, best, compared, started, turn)

    artifact, ours = workspace.store.once(
        line,
        opened.key,
        lambda: workspace.store.reuse(line, opened.key),
        make,
        task=f"comparing what the search {name} found",
        work=work,
    )
    return Concluded(artifact, opened, reused=not ours, compared=compared)


def best_of(opened: OpenSearch) -> list[Trial]:
    """The best trial, or the front, by number; of those that came to the same the first.

    Raises:
        SearchError: none is done.
    """
    first: dict[tuple[float, ...], Trial] = {}
    for trial in opened.trials.best():
        first.setdefault(trial.objectives, trial)
    if not first:
        raise SearchError(f"{opened.recipe.source.at('search')}: no trial was begun in time; write more hours")
    return list(first.values())


def _kept(
    workspace: Workspace,
    opened: OpenSearch,
    best: list[Trial],
    compared: Mapping[int, list[Confirmed]],
    started: datetime,
    turn: Turn,
) -> Artifact:
    from merge_assets.search.frame import frame_of

    finished = [one for one in opened.trials.all() if one.is_finished]
    details = SearchDetails(
        search=opened.recipe.name,
        study=opened.study,
        trials=len(finished),
        failed=sum(one.state == "failed" for one in finished),
        found=tuple(
            _found(opened, trial, compared[trial.number], number if len(best) > 1 else None)
            for number, trial in enumerate(best, 1)
        ),
    )
    tried = [(one.number, one.state, dict(one.values), one.objectives) for one in finished]
    models = Models(workspace)
    with workspace.store.draft(search_line(opened.recipe.name), started, turn=turn) as draft:
        frame_of(finished, list(opened.search.space), list(opened.labels)).to_csv(draft.directory / TABLE, index=False)
        return draft.commit(
            digest_of([opened.key, tried, details.model_dump(mode="json")]),
            key=opened.key,
            inputs=[models.used(name, fingerprint) for name, fingerprint in opened.models.items()],
            details=details,
            work=turn.work.silent(),
        )


def _found(opened: OpenSearch, trial: Trial, beside: list[Confirmed], number: int | None) -> FoundTrial:
    """A trial as the variant that it becomes: called as the search, with a number where there are several."""
    name, recipe = opened.recipe.name, opened.candidate(trial)
    content = dict(parse_documents(recipe.source.text, recipe.source.file)[0].data)
    del content["name"]
    return FoundTrial(
        name=name if number is None else f"{name}-{number}",
        number=trial.number,
        values=trial.values,
        objectives=trial.told["objectives"],
        recipe=plain_yaml(content),
        beside=tuple(
            TrialBeside(
                model=one.model,
                objective=one.objective,
                searched=one.searched,
                confirmed=one.confirmed,
                verdict=one.verdict.word,
            )
            for one in beside
        ),
    )
