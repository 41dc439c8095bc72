"""The trials of a search in Optuna's storage: asked, told, taken again, and read.

The storage is Optuna's own, so its dashboard shows it. It does not say which trials are being worked on; who asks sees to it
that nobody else works on the same one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url

from merge_assets.errors import SearchError, in_one_line
from merge_assets.recipe.schema_search import Choices, Dimension, Search
from merge_assets.search.patience import AWAY, patiently
from merge_assets.search.sampler import SeededSampler, be_quiet
from merge_assets.shown import without_credentials

State = Literal["waiting", "running", "done", "given up", "failed"]
_STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "given up",
    TrialState.FAIL: "failed",
}
_REASON = "reason"
_TOLD = "told"
SAME = "same_as"
"""Under this a trial that is the same merge as an earlier one names that one."""


@dataclass(frozen=True)
class Trial:
    """One candidate.

    Attributes:
        number: from 0, in the order in which they were asked for.
        state: whether it is finished; a point to start from waits until it is asked for.
        values: what was tried, by key path.
        objectives: what it came to, in the order of the search's objectives; empty unless it is done.
        reason: why it failed or was given up.
        told: what else was written down of it.
        began: when it was asked for.
        ended: when it was finished.
    """

    number: int
    state: State
    values: Mapping[str, Any]
    objectives: tuple[float, ...]
    reason: str
    told: Mapping[str, Any]
    began: datetime | None
    ended: datetime | None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be told of it."""
        return self.state in ("done", "given up", "failed")

    @property
    def same_as(self) -> int | None:
        """The number of the trial that is the same merge and of which the values are; ``None`` if this one was tried itself."""
        found: int | None = self.told.get(SAME)
        return found


class Trials:
    """The trials of one search; any number of processes may have them open.

    Args:
        url: of Optuna's storage.
        name: of the study.
        search: the space and the objectives.
        higher: of each objective, or of their sum, whether more is better.

    Raises:
        SearchError: the storage cannot be opened.
    """

    def __init__(self, url: str, name: str, search: Search, higher: Sequence[bool]) -> None:
        be_quiet()
        self._url = url
        self._search = search
        try:
            if (file := make_url(url).database) and url.startswith("sqlite:"):
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True}),
                study_name=name,
                directions=["maximize" if more else "minimize" for more in higher],
                sampler=SeededSampler(search),
                load_if_exists=True,
            )
        except Exception as error:  # of SQLAlchemy, of the database's driver, of Optuna
            shown = without_credentials(url)
            raise SearchError(f"the storage of trials {shown} cannot be opened: {in_one_line(error)}") from None
        for point in search.start:
            written = {path: _written(search.space[path], value) for path, value in point.items()}
            patiently(url, partial(self._study.enqueue_trial, written, skip_if_exists=True))

    def begin_with_best_before(self, search: str) -> None:
        """Try first what was best when this was searched last, in another space or with other models; unless a trial was begun.

        What was best is not sure to be: it is tried anew, and what is the same in every byte is not evaluated again.

        Args:
            search: name of the search; its studies are called ``SEARCH-DIGEST``. At most a quarter of its trials are so taken,
                and only points of this space.
        """
        patiently(self._url, lambda: self._begin_with_best_before(search))

    def all(self) -> list[Trial]:
        """Every trial, by number."""
        return [self._read(trial) for trial in self._frozen()]

    def ask(self) -> Trial | None:
        """A new candidate; None where the storage went away meanwhile: there may be one that nobody works on."""
        try:
            return self._filled(self._study.ask())
        except AWAY:
            return None

    def again(self, number: int) -> Trial:
        """A trial that somebody began and did not finish: the values that it has, and those that it would have been given."""

        def filled() -> Trial:
            frozen = self._study.get_trials(deepcopy=False)[number]
            return self._filled(optuna.trial.Trial(self._study, frozen._trial_id))

        return patiently(self._url, filled)

    def tell(self, number: int, objectives: Sequence[float], told: Mapping[str, Any]) -> None:
        """A candidate is evaluated; told once, a later word of the same trial counts for nothing."""
        self._finish(number, TrialState.COMPLETE, list(objectives), {_TOLD: dict(told)})

    def report(self, number: int, step: int, value: float) -> None:
        """What a candidate comes to on a part of the documents.

        Args:
            number: of the trial.
            step: how many parts were asked before.
            value: in the unit of its one objective, or of their sum.
        """

        def reported() -> None:
            frozen = self._study.get_trials(deepcopy=False)[number]
            if not frozen.state.is_finished():
                self._study._storage.set_trial_intermediate_value(frozen._trial_id, step, value)

        patiently(self._url, reported)

    def give_up(self, number: int, reason: str, told: Mapping[str, Any]) -> None:
        """A candidate is worse than the best; samplers that can learn from what was reported of it."""
        self._finish(number, TrialState.PRUNED, None, {_REASON: reason, _TOLD: dict(told)})

    def fail(self, number: int, reason: str) -> None:
        """A candidate cannot be made or evaluated."""
        self._finish(number, TrialState.FAIL, None, {_REASON: reason})

    def best(self) -> list[Trial]:
        """The best one; of several objectives those than which none is better in all, by number. Empty before any is done.

        Of trials that are the same merge, the first.
        """
        ranked = patiently(self._url, lambda: _best_first(self._study))
        if len(self._study.directions) == 1:
            return [self._read(trial) for trial in ranked[:1]]
        return [trial for trial in map(self._read, ranked) if trial.same_as is None]

    def _begin_with_best_before(self, search: str) -> None:
        if any(one.state != TrialState.WAITING for one in self._study.get_trials(deepcopy=False)):
            return
        storage, own = self._study._storage, self._study.study_name
        begun = [
            (summary.datetime_start, summary.study_name)
            for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)
            if re.fullmatch(rf"{re.escape(search)}-[0-9a-f]{{12}}", summary.study_name) and summary.study_name != own
            if summary.datetime_start is not None
        ]
        if not begun:
            return
        before = optuna.load_study(study_name=max(begun)[1], storage=storage)
        if before.directions != self._study.directions:
            return
        inside = [one.params for one in _best_first(before) if self._is_inside(one.params)]
        for point in inside[: self._search.trials // 4]:
            self._study.enqueue_trial(point, skip_if_exists=True)

    def _is_inside(self, written: Mapping[str, Any]) -> bool:
        """Whether a point of another space is one of this."""
        values: dict[str, Any] = {}
        for path, one in written.items():
            dimension = self._search.space.get(path)
            if isinstance(dimension, Choices):
                values.update((path, value) for value in dimension.choices if _written(dimension, value) == one)
            elif dimension is not None and dimension.holds(one):
                values[path] = one
        filled = {path for path in self._search.space if self._search.active(path, values)}
        return values.keys() == written.keys() == filled

    def _finish(
        self, number: int, state: TrialState, values: list[float] | None, attributes: Mapping[str, Any]
    ) -> None:
        def finished() -> None:
            frozen = self._study.get_trials(deepcopy=False)[number]
            if frozen.state.is_finished():
                return
            for key, value in attributes.items():
                self._study._storage.set_trial_user_attr(frozen._trial_id, key, value)
            self._study.tell(number, values, state=state, skip_if_finished=True)

        patiently(self._url, finished)

    def _frozen(self) -> list[FrozenTrial]:
        return patiently(self._url, partial(self._study.get_trials, deepcopy=False))

    def _filled(self, trial: optuna.trial.Trial) -> Trial:
        """The trial with a value in every place that its others leave open."""
        values: dict[str, Any] = {}
        # A place with a condition comes after those that it asks for, which have none.
        for path in sorted(self._search.space, key=lambda one: bool(self._search.space[one].when)):
            if self._search.active(path, values):
                values[path] = self._suggested(trial, path, self._search.space[path])
        return self._read(self._study.get_trials(deepcopy=False)[trial.number])

    def _suggested(self, trial: optuna.trial.Trial, path: str, dimension: Dimension) -> Any:
        if isinstance(dimension, Choices):
            written = trial.suggest_categorical(path, [_written(dimension, value) for value in dimension.choices])
            return _value(dimension, written)
        if dimension.whole:
            return trial.suggest_int(path, int(dimension.low), int(dimension.high), log=dimension.log)
        return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log)

    def _read(self, trial: FrozenTrial) -> Trial:
        space = self._search.space
        return Trial(
            number=trial.number,
            state=_STATES[trial.state],
            values={path: _value(space[path], trial.params[path]) for path in space if path in trial.params},
            objectives=tuple(trial.values or ()) if trial.state is TrialState.COMPLETE else (),
            reason=str(trial.user_attrs.get(_REASON, "")),
            told=trial.user_attrs.get(_TOLD, {}),
            began=trial.datetime_start,
            ended=trial.datetime_complete,
        )


def _best_first(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials, the best first; of several objectives those than which none is better in all, by number."""
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda one: one.number)
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return sorted(done, key=lambda one: (sign * (one.value or 0.0), one.number))


def _written(dimension: Dimension, value: Any) -> Any:
    """A value as Optuna keeps it: numbers and words as they are, the rest as JSON."""
    if not isinstance(dimension, Choices) or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    return json.dumps(value)


def _value(dimension: Dimension, written: Any) -> Any:
    if not isinstance(dimension, Choices):
        return written
    return next(value for value in dimension.choices if _written(dimension, value) == written)
