"""Optuna's samplers, seeded for each trial by its number, so that a search that was stopped goes on as if it had not been."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from merge_assets.recipe.schema_search import Sampler, Search

_MAKERS: Mapping[Sampler, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "cmaes": lambda seed: CmaEsSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}


class SeededSampler(BaseSampler):
    """For each trial a sampler of its own, of which the seed follows from the search's and the trial's number.

    What it proposes depends on these and on the trials that are finished, not on which process asks.

    Args:
        search: which sampler, and its seed.
    """

    def __init__(self, search: Search) -> None:
        self._make = _MAKERS[search.proposer]
        self._seed = search.seed
        self._last: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._last is None or self._last[0] != trial.number:
            digest = hashlib.sha256(f"{self._seed}/{trial.number}".encode()).digest()
            self._last = trial.number, self._make(int.from_bytes(digest[:4], "little"))
        return self._last[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(trial).after_trial(study, trial, state, values)


def be_quiet() -> None:
    """Optuna logs what is said here otherwise."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
