"""What the recipes of a project say of the versions in its store: the facts for :mod:`merge_assets.api.retention`.

Versions are judged by the first suite of their recipe. One goes for its scores only when every suite of the recipe has a value
of every task of it, as nothing can be measured of bytes that are gone; and not while something is made of it, or may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from merge_assets.api.preflight import suites_of
from merge_assets.api.retention import Contender, Fate, fates
from merge_assets.identity import ModelIdentity, variant_line
from merge_assets.plan.code import trusted_in
from merge_assets.recipe import Recipe
from merge_assets.recipe.schema_keep import KeepRule
from merge_assets.reference import ModelReference
from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.store.needs import Name, Retention
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import KnownScores

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite import Suite


def retention(workspace: Workspace, found: Inventory) -> tuple[Retention, dict[Name, str]]:
    """What becomes of the versions of recipes with ``keep``, and which scores stay since they tell.

    Args:
        workspace: the project.
        found: its store.
    """
    return _Keeping(workspace, found).result()


class _Keeping:
    def __init__(self, workspace: Workspace, found: Inventory) -> None:
        self._workspace = workspace
        self._found = found
        self._known = KnownScores(workspace)
        self._scores: dict[Name, str] = {}
        self._decided: dict[tuple[str, str, tuple[KeepRule, ...]], Mapping[Name, Fate]] = {}
        self._consumers = _consumers(workspace)

    def result(self) -> tuple[Retention, dict[Name, str]]:
        lines: set[str] = set()
        kept: dict[Name, str] = {}
        goes: dict[Name, str] = {}
        for recipe in self._workspace.book.recipes.values():
            line = variant_line(recipe.name)
            if recipe.keep is None or line not in self._found.versions:
                continue
            lines.add(line)
            needed = self._needed(recipe)
            decided = self._fates(recipe)
            by_score = recipe.swept is not None and any(rule.by == "best" for rule in recipe.keep)
            for stored in self._found.versions[line]:
                fate = decided[stored.name]
                if fate.stays:
                    kept[stored.name] = fate.why
                elif not self._found.is_current(stored) or (by_score and not needed):
                    goes[stored.name] = fate.why
                elif by_score:
                    kept[stored.name] = needed
        texts = {one.file: one.text for one in self._workspace.book.texts}
        for broken in self._workspace.book.broken:
            for line in self._of_broken(broken.name) if "keep" in texts.get(broken.file, "keep") else ():
                lines.add(line)
                why = f"perhaps kept by {broken.file.name}, which is broken"
                kept |= {stored.name: why for stored in self._found.versions[line]}
        return Retention(frozenset(lines), kept, goes), self._scores

    def _of_broken(self, name: str) -> list[str]:
        """Lines of a recipe that cannot be read, or of the points of such a sweep."""
        own = variant_line(name)
        return [line for line in self._found.versions if line == own or line.startswith(f"{own}-")]

    def _needed(self, recipe: Recipe) -> str:
        """Why the current version of a sweep's point stays although it is not among the best; empty if nothing is known."""
        if recipe.name in self._consumers:
            return f"{self._consumers[recipe.name]} names it"
        at_work = (line.partition("/")[2] for line, _ in self._found.leases)
        if any(f"{line}/".startswith(f"{recipe.name}/") for line in at_work):
            return "somebody is at work on it"
        if trusted_in(self._workspace.book, recipe):
            return "whether its own code may be run is told by its files"
        return ""

    def _fates(self, recipe: Recipe) -> Mapping[Name, Fate]:
        suites = suites_of(self._workspace, recipe)
        suite = self._workspace.suites.get(suites[0]) if suites else None
        by = _headline(suite) if suite is not None else "any suite"
        group = recipe.swept.sweep if recipe.swept is not None else recipe.name
        key = (group, by, recipe.keep or ())
        if key not in self._decided:
            points = self._workspace.book.sweeps[group] if recipe.swept is not None else (recipe,)
            self._decided[key] = fates(key[2], [one for point in points for one in self._of(point, suite)], by)
        return self._decided[key]

    def _of(self, recipe: Recipe, suite: Suite | None) -> list[Contender]:
        versions = self._found.versions.get(variant_line(recipe.name), ())
        return [
            Contender(
                stored.name,
                age,
                recipe.swept is None or self._found.is_current(stored),
                self._score(recipe, stored, suite) if suite is not None else None,
            )
            for age, stored in enumerate(reversed(versions))
        ]

    def _score(self, recipe: Recipe, stored: StoredVersion, suite: Suite) -> float | None:
        model = ModelIdentity("recipe", (recipe.name,), recipe.name, ModelReference(recipe.name))
        version, suites = stored.artifact.version, suites_of(self._workspace, recipe)
        scores = self._known.of(model, suite, version)
        if scores is None or not self._known.complete(model, suites, version):
            return None
        if (made := self._known.artifact(scores)) is not None:
            self._scores[made.line, made.version] = f"tells which of {variant_line(recipe.name)} stay"
        return _value(scores, suite)


def _consumers(workspace: Workspace) -> Mapping[str, str]:
    """Who names a recipe as a model: another one, or a suite that compares with it."""
    named: dict[str, str] = {}
    for name in workspace.book.recipes:
        named |= dict.fromkeys(workspace.book.parents(name), f"recipe {name}")
    for suite in workspace.suites.values():
        named |= dict.fromkeys(suite.others, f"suite {suite.name}")
    return named


def _headline(suite: Suite) -> str:
    """What versions are judged by: the headline; of a suite without one its first task, as the leaderboard ranks."""
    first = suite.tasks[0]
    return f"{suite.name} headline" if suite.headline_parts else f"{suite.name} {first.task} {first.metric}"


def _value(scores: Scores, suite: Suite) -> float | None:
    """The same as a number of which more is better."""
    if suite.headline_parts:
        return scores.headline
    first = suite.tasks[0]
    row = next((one for one in scores.tasks if (one.task, one.metric) == (first.task, first.metric)), None)
    return None if row is None else row.value if row.higher_is_better else -row.value
