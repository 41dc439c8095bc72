"""How much each place matters for being among the best, by PED-ANOVA (Watanabe, Bansal and Hutter, 2023) as Optuna has it.

How differently the best trials and all trials are spread over the values of a place; places are looked at one by one, so what
matters only together with another place counts little. fANOVA, which looks at pairs, needs scikit-learn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from merge_assets.recipe.schema_search import Choices, Dimension
from merge_assets.search.figure import Area, Box, LeftOut, Mark, Picture, Word
from merge_assets.search.over_trials import thinned
from merge_assets.search.sampler import be_quiet
from merge_assets.search.standing import Standing, key_of, text_of

FEWEST = 20
MOST = 2000
"""Trials that are looked at; of more, evenly many are left out."""

_BEST, _FEWEST_BEST = 0.1, 5
"""Which part of all trials are the best, and how many these are at least."""

_LONGEST = 34
_ROW = 26


def importances(standing: Standing, goal: int = 0) -> dict[str, float]:
    """How much each place that varies matters for one goal, the most first, in sum 1; empty where nothing can be told.

    Args:
        standing: the trials; fewer than :data:`FEWEST` tell nothing.
        goal: of which trials are the best.
    """
    if len(standing.done) < FEWEST or not standing.varied:
        return {}
    be_quiet()
    looked_at = thinned(standing.done, MOST)
    share = max(_BEST, _FEWEST_BEST / len(looked_at))
    distributions = {path: _distribution(standing.space[path]) for path in standing.varied}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={path: _written(standing.space[path], one.values[path]) for path in there},
                distributions={path: distributions[path] for path in there},
                value=standing.gain(one, goal),
            )
            for one in looked_at
            for there in [[path for path in standing.varied if path in one.values]]
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of conditions that few trials meet; such places count little
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share), normalize=False
        )
    total = math.fsum(found.values())
    return {path: found[path] / total for path in sorted(found, key=lambda one: -found[one])} if total > 0 else {}


def importance(standing: Standing, goal: int, found: Mapping[str, float]) -> Picture | LeftOut:
    """A bar for every place.

    Args:
        standing: the trials.
        goal: of it.
        found: as :func:`importances` gives them.
    """
    title = f"What matters for {standing.goals[goal].label}"
    if len(standing.varied) < 2:
        return LeftOut(title, "fewer than two places vary")
    if not found:
        few = len(standing.done) < FEWEST
        why = f"{FEWEST} finished trials are needed, {len(standing.done)} are there"
        return LeftOut(title, why if few else "the best trials are spread like all others")
    area = Area(height=30 + _ROW * len(found), left=236, right=48, top=16, bottom=14)
    most = max(found.values())
    marks: list[Mark] = []
    for index, (path, value) in enumerate(found.items()):
        top = area.top + _ROW * index
        long = area.x(value / most) - area.left
        marks += [
            Word("word", area.left - 10, top + 14, text_of(path, _LONGEST), "end"),
            Box("bar", area.left, top + 2, max(long, 1.0), _ROW - 9, f"{path}: {value:.1%}"),
            Word("note", area.left + max(long, 1.0) + 6, top + 14, f"{value:.0%}"),
        ]
    count = min(len(standing.done), MOST)
    best = max(_BEST, _FEWEST_BEST / count)
    text = (
        f"PED-ANOVA: how differently the best {math.ceil(best * count)} trials and all "
        f"{count} are spread over the values of a place, in percent of the sum. What matters only together with "
        "another place counts little, and where the sampler has looked mostly among the good ones, so does what it found early."
    )
    return Picture(f"importance-{goal}", title, text, area.draw(marks, label=title))


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(tuple(range(len(dimension.choices))))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _written(dimension: Dimension, value: object) -> object:
    """A value as the distribution has it: of several values, which one."""
    if not isinstance(dimension, Choices):
        return value
    return [key_of(one) for one in dimension.choices].index(key_of(value))
