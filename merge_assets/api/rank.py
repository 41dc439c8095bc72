"""The leaderboard over everything evaluated: what it says of a model is of the version that was scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from merge_assets.api.joined import other_scores, parents_of
from merge_assets.api.varied import Kin
from merge_assets.errors import CheckpointError, MergeAssetsError
from merge_assets.freshness import short
from merge_assets.identity import ModelIdentity
from merge_assets.plan.model import digest_of
from merge_assets.recipe import Published, Recipe
from merge_assets.recipe.load import read_recipes
from merge_assets.records import Input, LeaderboardDetails, VariantDetails
from merge_assets.reference import ModelKind, ModelReference
from merge_assets.store import Artifact
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace
from merge_assets.workspace.results import KnownScores
from merge_assets.workspace.samples import StoredSamples
from merge_assets.workspace.staleness import Staleness

if TYPE_CHECKING:
    from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry, Past
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite import Suite

LINE = "leaderboard"
RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Ranked:
    """The leaderboard in the store.

    Attributes:
        artifact: the committed version: Parquet, Markdown and HTML.
        reused: whether it was there already.
        leaderboard: the table.
    """

    artifact: Artifact
    reused: bool
    leaderboard: Leaderboard


def rank(workspace: Workspace, *, work: Work = UNATTENDED) -> Ranked:
    """Rank every base checkpoint and variant that has scores, and say which of them are out of date.

    Args:
        workspace: whose models to rank.
        work: asked while base checkpoints are digested, which is done of those that changed since they were last.
    """
    from merge_assets.evaluation.leaderboard import Leaderboard
    from merge_assets.evaluation.leaderboard_files import write_leaderboard
    from merge_assets.evaluation.page import leaderboard_page

    known = KnownScores(workspace)
    shelf = _Shelf(workspace, work, known)
    entries = shelf.entries()
    samples = StoredSamples(known, workspace.cache)
    leaderboard = Leaderboard(entries, samples=samples, published=_published(workspace))
    key = digest_of([leaderboard_page(leaderboard), [sorted(scores.digest for scores in e.scores) for e in entries]])
    found = workspace.store.reuse(LINE, key)
    if found is not None:
        return Ranked(found, True, leaderboard)
    with workspace.store.draft(LINE) as draft:
        write_leaderboard(leaderboard, draft.directory, lines=samples.lines)
        inputs = [Input(kind=shelf.kinds[e.model], name=e.model, fingerprint=e.fingerprint) for e in entries]
        artifact = draft.commit(key, key=key, inputs=inputs, details=LeaderboardDetails(models=len(entries)))
    return Ranked(artifact, False, leaderboard)


def board_of(workspace: Workspace, names: Sequence[str], *, work: Work = UNATTENDED) -> Leaderboard:
    """Some recipes beside the models that they are made of, ranked among each other.

    Args:
        workspace: whose models to rank.
        names: recipes of its book.
        work: as for :func:`rank`.
    """
    from merge_assets.evaluation.leaderboard import Leaderboard

    known = KnownScores(workspace)
    shelf = _Shelf(workspace, work, known)
    entries = shelf.entries(names)
    published = {name: values for name, values in _published(workspace).items() if name in names}
    return Leaderboard(entries, samples=StoredSamples(known, workspace.cache), published=published)


def _published(workspace: Workspace) -> dict[str, tuple[Published, ...]]:
    """What others published of the variants of the book, whether they were ever built or not."""
    return {name: recipe.published for name, recipe in workspace.book.recipes.items() if recipe.published}


def leaderboard_entries(
    workspace: Workspace, work: Work = UNATTENDED, known: KnownScores | None = None
) -> list[LeaderboardEntry]:
    """One entry for every model of the recipe book that has scores, of the version that these are of.

    That is the version that is there now, if it was scored, else the one that was scored last; then the entry says so.
    """
    return _Shelf(workspace, work, known or KnownScores(workspace)).entries()


class _Shelf:
    """Models, scores and variants of a store, joined by the versions that they record.

    Attributes:
        kinds: what the models are that were looked at, by their titles.
    """

    def __init__(self, workspace: Workspace, work: Work, known: KnownScores) -> None:
        self._workspace = workspace
        self._known = known
        self._kin = Kin(workspace)
        self._staleness = Staleness(workspace, thorough=True, work=work)
        self.kinds: dict[str, ModelKind] = {}

    def entries(self, names: Sequence[str] | None = None) -> list[LeaderboardEntry]:
        """The entries of all models of which there is something to show, or of recipes and the models that they are made of."""
        models = _models(self._workspace, names)
        found = [self._entry(reference, recipe) for reference, recipe in models.items()]
        return [entry for entry in found if entry is not None]

    def _entry(self, reference: ModelReference, recipe: Recipe | None) -> LeaderboardEntry | None:
        """The entry of a model; ``None`` if there is nothing to show."""
        try:
            identity = self._workspace.names.identify(reference)
        except CheckpointError:  # a model that is nowhere has no scores; its recipes say so
            return None
        self.kinds[identity.title] = identity.kind
        return self._of_base(reference, identity) if recipe is None else self._of_variant(recipe, identity)

    def _of_base(self, reference: ModelReference, identity: ModelIdentity) -> LeaderboardEntry | None:
        from merge_assets.evaluation.leaderboard import LeaderboardEntry

        if not any(True for suite in self._suites for _ in self._known.latest(identity, suite)):
            return None
        now = self._staleness.fingerprint(reference)
        version, scores = now or "", self._scores(identity, now or "")
        if not scores:
            version = self._scored(identity)[0]
            scores = self._scores(identity, version)
        stale = other_scores(version, now)
        parameters, layers = _size(self._staleness.models, reference) if stale is None else (None, None)
        return LeaderboardEntry(
            model=identity.title,
            kind="base",
            parameters=parameters,
            layers=layers,
            fingerprint=version,
            scores=scores,
            url=f"https://huggingface.co/{reference.path}" if identity.kind == "hub" else None,
            stale=stale,
        )

    def _of_variant(self, recipe: Recipe, identity: ModelIdentity) -> LeaderboardEntry | None:
        from merge_assets.evaluation.leaderboard import LeaderboardEntry

        current = self._staleness.current(recipe.name)
        if current is None:
            return self._of_scores(identity) if recipe.keep is not None else None
        artifact, scores = current, self._scores(identity, current.version)
        if not scores:
            there = (self._workspace.store.get(current.line, version) for version in self._scored(identity))
            found = next((one for one in there if one is not None), None)
            if found is None:
                return None
            artifact, scores = found, self._scores(identity, found.version)
        reasons = (other_scores(artifact.version, current.version), self._staleness.reason(recipe))
        details = artifact.manifest.described(VariantDetails)
        text = artifact.read_bytes(RECIPE_FILE).decode()
        return LeaderboardEntry(
            model=identity.title,
            kind="variant",
            method=details.method,
            parameters=details.parameters,
            layers=details.layers,
            fingerprint=artifact.version,
            parents=parents_of(self._workspace, self._known, artifact, self._suites),
            scores=scores,
            description=_description(text, recipe),
            recipe=text,
            stale="; ".join(reason for reason in reasons if reason) or None,
            history=self._history(identity),
            places=self._kin.values(recipe, text),
        )

    def _of_scores(self, identity: ModelIdentity) -> LeaderboardEntry | None:
        """What is left of a variant that `keep` let go. How it was made its files told, and a recipe may have changed since."""
        from merge_assets.evaluation.leaderboard import LeaderboardEntry

        version = next(iter(self._scored(identity)), None)
        if version is None:
            return None
        return LeaderboardEntry(
            model=identity.title,
            kind="variant",
            fingerprint=version,
            scores=self._scores(identity, version),
            stale=f"scores are of version {short(version)}, whose bytes went by keep of its recipe",
            history=self._history(identity),
        )

    @property
    def _suites(self) -> list[Suite]:
        return list(self._workspace.suites.values())

    def _scores(self, identity: ModelIdentity, version: str) -> list[Scores]:
        found = [self._known.of(identity, suite, version) for suite in self._suites]
        return [scores for scores in found if scores is not None]

    def _history(self, identity: ModelIdentity) -> list[Past]:
        """What each version of a model scored last on each suite, the oldest first."""
        from merge_assets.evaluation.leaderboard import Past

        found: dict[tuple[str, str], Past] = {}
        for suite in self._suites:
            for when, scores in sorted(self._known.latest(identity, suite), key=_when, reverse=True):
                found.setdefault((suite.name, scores.fingerprint), Past(when.isoformat(timespec="seconds"), scores))
        return sorted(found.values(), key=lambda past: past.when)

    def _scored(self, identity: ModelIdentity) -> list[str]:
        """The versions of a model that have scores: the latest of each suite, then all others, each from the newest on."""
        by_suite = [list(self._known.latest(identity, suite)) for suite in self._suites]
        latest = sorted((ways[0] for ways in by_suite if ways), key=_when, reverse=True)
        others = sorted((one for ways in by_suite for one in ways[1:]), key=_when, reverse=True)
        return list(dict.fromkeys(scores.fingerprint for _, scores in (*latest, *others)))


def _when(made: tuple[datetime, Scores]) -> datetime:
    return made[0]


def _description(text: str, recipe: Recipe) -> str:
    """What a recipe of this text says of itself; what the recipe says now, if it can be read no more."""
    entries = read_recipes(text, recipe.source.file, recipe.name)
    return next((entry.description for entry in entries if isinstance(entry, Recipe)), recipe.description)


def _models(workspace: Workspace, names: Sequence[str] | None) -> dict[ModelReference, Recipe | None]:
    """Every base checkpoint and stored recipe of the book, or some recipes and what they are made of; bases first, then recipes
    in build order."""
    found: dict[ModelReference, Recipe | None] = {}
    book = workspace.book
    recipes = {name: book.recipes[name] for name in book.order() if book.recipes[name].materialize}
    if names is not None:
        above = {one.name for name in names if name in recipes for one in book.made_of(recipes[name])}
        recipes = {name: recipe for name, recipe in recipes.items() if name in above or name in names}
    for recipe in recipes.values():
        for reference in book.inputs(recipe):
            if book.resolve(reference) is None and reference.lora is None:
                found[reference] = None
    for name, recipe in recipes.items():
        found[ModelReference(name)] = recipe
    return found


def _size(models: Models, reference: ModelReference) -> tuple[int | None, int | None]:
    """Parameters and layers of a base checkpoint; unknown for one that cannot be reached now."""
    try:
        checkpoint = models.headers(reference).checkpoint
    except MergeAssetsError:
        return None, None
    return sum(tensor.numel for tensor in checkpoint.tensors.values()), checkpoint.layer_count
