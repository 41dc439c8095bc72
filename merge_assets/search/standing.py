"""How a search stands: what its trials are judged by, which are ahead, and why others failed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from merge_assets.recipe.schema_search import Dimension, Search
from merge_assets.scales import undominated
from merge_assets.search.gradients import Gradient

if TYPE_CHECKING:
    from merge_assets.search.trials import Trial

SHADES = 8
"""Into how many parts trials are divided by rank, the best in the last one."""

_LONGEST = 24
"""Characters that are written of a value."""


@dataclass(frozen=True)
class Goal:
    """What trials are judged by.

    Attributes:
        label: the objective's; that of a weighted sum says so.
        higher: whether more is better.
    """

    label: str
    higher: bool

    @property
    def title(self) -> str:
        """For axes."""
        return self.label if self.higher else f"{self.label} ↓"


@dataclass(frozen=True)
class Failure:
    """Trials that failed in the same way.

    Attributes:
        reason: of the first of them.
        numbers: of the trials.
    """

    reason: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Standing:
    """The trials of a search.

    Attributes:
        trials: all, by number.
        space: what is tried in each place.
        goals: what trials are judged by, in the order of their objectives.
        gradients: the lists of values over the layers that the space changes.
    """

    trials: Sequence[Trial]
    space: Mapping[str, Dimension]
    goals: Sequence[Goal]
    gradients: Sequence[Gradient] = ()

    @cached_property
    def done(self) -> list[Trial]:
        """The trials that can be compared: those that came to finite numbers."""
        return [one for one in self.trials if one.state == "done" and all(math.isfinite(v) for v in one.objectives)]

    @cached_property
    def front(self) -> frozenset[int]:
        """The trials that no other beats: with one goal the first of the best, else those that are best in some mixture."""
        if len(self.goals) == 1:
            return frozenset(one.number for one in sorted(self.done, key=self._order)[:1])
        costs = [[-self.gain(one, goal) for goal in range(len(self.goals))] for one in self.done]
        return frozenset(one.number for one, best in zip(self.done, undominated(costs), strict=True) if best)

    @cached_property
    def ranked(self) -> list[Trial]:
        """The trials that can be compared, those first that no other beats, and then by the first goal."""
        return sorted(self.done, key=lambda one: (one.number not in self.front, *self._order(one)))

    @cached_property
    def shade(self) -> Mapping[int, int]:
        """Into which part of all a trial falls by its rank, 0 to :data:`SHADES` − 1, by number."""
        count = len(self.ranked)
        return {one.number: SHADES - 1 - SHADES * place // count for place, one in enumerate(self.ranked)}

    @cached_property
    def varied(self) -> list[str]:
        """The places in which the trials that can be compared have different values."""
        return [path for path in self.space if len({key_of(one.values.get(path)) for one in self.done}) > 1]

    @cached_property
    def telling(self) -> list[int]:
        """The goals by which trials differ."""
        return [n for n in range(len(self.goals)) if len({one.objectives[n] for one in self.done}) > 1]

    @cached_property
    def failures(self) -> list[Failure]:
        """Why trials failed, the most frequent reason first."""
        found: dict[str, list[Trial]] = {}
        for one in self.trials:
            if one.state == "failed":
                # A candidate is called NAME-trial-NUMBER, also in messages.
                found.setdefault(re.sub(r"\btrial-\d+", "trial-N", one.reason), []).append(one)
        made = [
            Failure(of[0].reason or "no reason was written down", tuple(t.number for t in of)) for of in found.values()
        ]
        return sorted(made, key=lambda one: (-len(one.numbers), one.numbers))

    def gain(self, trial: Trial, goal: int = 0) -> float:
        """What a trial came to, with the sign turned so that more is better."""
        return trial.objectives[goal] if self.goals[goal].higher else -trial.objectives[goal]

    def first(self, among: Sequence[Trial], goal: int) -> Trial:
        """The best by one goal of some trials; of equals the one that was asked for first."""
        return max(among, key=lambda one: (self.gain(one, goal), -one.number))

    def _order(self, trial: Trial) -> tuple[float, int]:
        return -self.gain(trial), trial.number


def goals_of(search: Search, labels: Sequence[str], higher: Sequence[bool]) -> tuple[Goal, ...]:
    """What the trials of a search are judged by: every objective, or their weighted sum, of which more is better.

    Args:
        search: whose objectives may have weights.
        labels: of the objectives.
        higher: of each, whether more is better.
    """
    weights = [one.weight for one in search.objective]
    if weights[0] is not None:
        parts = zip(weights, higher, labels, strict=True)
        text = " ".join(f"{'+' if more else '−'} {weight:g} · {label}" for weight, more, label in parts)
        return (Goal(text.removeprefix("+ "), True),)
    return tuple(Goal(label, more) for label, more in zip(labels, higher, strict=True))


def key_of(value: Any) -> str:
    """What tells a value from others; ``True`` and 1 are two."""
    return json.dumps(value, sort_keys=True, default=str)


def text_of(value: Any, longest: int = _LONGEST) -> str:
    """A value for people: numbers in four digits, lists as JSON, the end of what is long."""
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return number(value)
    text = value if isinstance(value, str) else json.dumps(_rounded(value), default=str, ensure_ascii=False)
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def number(value: float) -> str:
    """In four digits; thousands, millions and billions by a letter."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size * 0.99995 <= abs(value) < 1e15:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
