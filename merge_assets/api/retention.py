"""Which versions a recipe's key `keep` leaves in the store and which it lets go, from their ages and scores alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from merge_assets.recipe.schema_keep import KeepRule
from merge_assets.store.needs import Name


@dataclass(frozen=True)
class Contender:
    """A version that a rule looks at.

    Attributes:
        name: line and version.
        age: how many versions of its line are newer.
        competes: whether it is one of those of which the best stay: of a sweep's points the current version of each, of a
            single variant all versions.
        score: what it came to, more is better; ``None`` if that is not known.
    """

    name: Name
    age: int
    competes: bool
    score: float | None


@dataclass(frozen=True)
class Fate:
    """What becomes of a version by a rule, and why, in words."""

    stays: bool
    why: str


def fates(rules: Sequence[KeepRule], contenders: Sequence[Contender], by: str) -> dict[Name, Fate]:
    """What becomes of versions: what any rule keeps stays.

    Those that are as good as the last of the best stay with it, and those without a score until they have one.

    Args:
        rules: of the recipe.
        contenders: all versions among which the best are looked for.
        by: what the scores are of, for people.
    """
    ranking = sorted(one.score for one in contenders if one.competes and one.score is not None)
    found = {}
    for one in contenders:
        each = [_fate(rule, one, ranking, by) for rule in rules]
        found[one.name] = next((fate for fate in each if fate.stays), Fate(False, ", ".join(fate.why for fate in each)))
    return found


def _fate(rule: KeepRule, one: Contender, ranking: Sequence[float], by: str) -> Fate:
    some = f"{rule.by} {rule.count}" if rule.count > 1 else rule.by
    if rule.by == "last":
        stays, among = one.age < rule.count, f"among the {some}"
    elif not one.competes:
        return Fate(False, "not what its point is now")
    elif one.score is None:
        return Fate(True, f"kept until it is scored by {by}")
    else:
        stays = len(ranking) - bisect_right(ranking, one.score) < rule.count
        among = f"among the {some} by {by}"
    return Fate(stays, among if stays else f"not {among}")
