"""The leaderboard over everything evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merge_assets.errors import CheckpointError, MergeAssetsError
from merge_assets.identity import ModelIdentity, variant_line
from merge_assets.plan.model import digest_of
from merge_assets.recipe import Recipe
from merge_assets.records import Input, LeaderboardDetails, VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact
from merge_assets.workspace import Models, Workspace
from merge_assets.workspace.results import current_scores

if TYPE_CHECKING:
    from merge_assets.evaluation.leaderboard import Leaderboard, LeaderboardEntry
    from merge_assets.evaluation.scores import Scores

LINE = "leaderboard"


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


def rank(workspace: Workspace) -> Ranked:
    """Rank every base checkpoint and variant that has scores; those of an outdated variant do not count."""
    from merge_assets.evaluation.leaderboard import Leaderboard
    from merge_assets.evaluation.leaderboard_files import write_leaderboard
    from merge_assets.evaluation.page import leaderboard_page

    entries = leaderboard_entries(workspace)
    leaderboard = Leaderboard(entries)
    key = digest_of([leaderboard_page(leaderboard), [sorted(scores.digest for scores in e.scores) for e in entries]])
    found = workspace.store.reuse(LINE, key)
    if found is not None:
        return Ranked(found, True, leaderboard)
    with workspace.store.draft(LINE) as draft:
        write_leaderboard(leaderboard, draft.directory)
        inputs = [_input(entry) for entry in entries]
        artifact = draft.commit(key, key=key, inputs=inputs, details=LeaderboardDetails(models=len(entries)))
    return Ranked(artifact, False, leaderboard)


def _input(entry: LeaderboardEntry) -> Input:
    kind: Literal["recipe", "local", "hub"] = "hub" if entry.url else "local"
    return Input(kind="recipe" if entry.kind == "variant" else kind, name=entry.model, fingerprint=entry.fingerprint)


def leaderboard_entries(workspace: Workspace) -> list[LeaderboardEntry]:
    """One entry for every model of the recipe book that has scores."""
    from merge_assets.evaluation.leaderboard import LeaderboardEntry

    entries = []
    for reference, recipe in _models(workspace).items():
        try:
            identity = workspace.names.identify(reference)
        except CheckpointError:  # a model that is nowhere has no scores; its recipes say so
            continue
        variant = workspace.store.current(variant_line(recipe.name)) if recipe else None
        if recipe and variant is None:
            continue
        scores = _scores(workspace, identity, variant.version if variant else None)
        if not scores:
            continue
        parameters, layers = _size(workspace, reference, variant)
        entries.append(
            LeaderboardEntry(
                model=identity.title,
                kind="variant" if recipe else "base",
                method=recipe.merge_method if recipe else None,
                parameters=parameters,
                layers=layers,
                fingerprint=scores[0].fingerprint,
                parents=_parents(workspace, recipe) if recipe else [],
                scores=scores,
                description=recipe.description if recipe else "",
                recipe=recipe.source.text if recipe else None,
                url=f"https://huggingface.co/{reference.path}" if identity.kind == "hub" else None,
            )
        )
    return entries


def _parents(workspace: Workspace, recipe: Recipe) -> list[str]:
    return [workspace.names.identify(reference).title for reference in workspace.book.inputs(recipe)]


def _models(workspace: Workspace) -> dict[ModelReference, Recipe | None]:
    """Every base checkpoint and stored recipe of the book; bases first, then recipes in build order."""
    found: dict[ModelReference, Recipe | None] = {}
    book = workspace.book
    recipes = {name: book.recipes[name] for name in book.order() if book.recipes[name].materialize}
    for recipe in recipes.values():
        for reference in book.inputs(recipe):
            if book.resolve(reference) is None and reference.lora is None:
                found[reference] = None
    for name, recipe in recipes.items():
        found[ModelReference(name)] = recipe
    return found


def _scores(workspace: Workspace, identity: ModelIdentity, fingerprint: str | None) -> list[Scores]:
    found = [current_scores(workspace.store, identity, suite, fingerprint) for suite in workspace.suites.values()]
    return [scores for scores in found if scores is not None]


def _size(workspace: Workspace, reference: ModelReference, variant: Artifact | None) -> tuple[int | None, int | None]:
    """Parameters and layers; unknown for a base checkpoint that cannot be reached now."""
    if variant is not None:
        details = variant.manifest.described(VariantDetails)
        return details.parameters, details.layers
    try:
        checkpoint = Models(workspace).headers(reference).checkpoint
    except MergeAssetsError:
        return None, None
    return sum(tensor.numel for tensor in checkpoint.tensors.values()), checkpoint.layer_count
