"""What the store has of one version: its scores, those of what it was made from, and its card with the scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.preflight import suites_of
from merge_assets.checkpoint import fingerprint_files
from merge_assets.errors import CheckpointError
from merge_assets.freshness import short
from merge_assets.identity import ModelIdentity, scores_line, variant_line
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact
from merge_assets.store.place import Watch
from merge_assets.store.place.disk import sizes_below
from merge_assets.store.transfer import what_is_wrong
from merge_assets.work import Work
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import KnownScores
from merge_assets.workspace.samples import StoredSamples
from merge_assets.workspace.staleness import Staleness

if TYPE_CHECKING:
    from merge_assets.evaluation.judge import SamplesOf
    from merge_assets.evaluation.leaderboard import Parent
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite import Suite
    from merge_assets.recipe import Published, Recipe


def other_scores(scored: str, current: str | None) -> str | None:
    """What to say where the version that was scored is not the one that is there, if that is known."""
    return None if current in (None, scored) else f"scores are of version {short(scored)}, current is {short(current)}"


def parents_of(workspace: Workspace, known: KnownScores, variant: Artifact, suites: Iterable[Suite]) -> list[Parent]:
    """The models that a version was made from, with the scores of the very bytes that were merged.

    Args:
        workspace: by which the models are called.
        known: the scores of its store.
        variant: the version.
        suites: whose scores are asked for.
    """
    from merge_assets.evaluation.leaderboard import Parent

    read = {name: ModelReference.parse(name) for name in variant.manifest.fingerprints}
    adapters = {reference.lora for reference in read.values()}
    found: dict[tuple[str, str], Parent] = {}
    for name, fingerprint in variant.manifest.fingerprints.items():
        if read[name] in adapters:
            continue
        try:
            model = workspace.names.identify(read[name].model)
        except CheckpointError:  # it is no more
            found[name, fingerprint] = Parent(name, fingerprint)
            continue
        scores = [one for suite in suites if (one := known.of(model, suite, fingerprint)) is not None]
        found[model.title, fingerprint] = Parent(model.title, fingerprint, scores)
    return list(found.values())


def scores_of(workspace: Workspace, known: KnownScores, variant: Artifact) -> list[Scores]:
    """The scores of a version of a variant, on all suites."""
    name = variant.line.removeprefix(variant_line(""))
    model = ModelIdentity("recipe", (name,), name, ModelReference(name))
    found = [known.of(model, suite, variant.version) for suite in workspace.suites.values()]
    return [scores for scores in found if scores is not None]


def has_scores_alone(workspace: Workspace, recipe: Recipe) -> bool:
    """Whether of a recipe without a version there are the scores of one that `keep` let go."""
    if recipe.keep is None:
        return False
    model = ModelIdentity("recipe", (recipe.name,), recipe.name, ModelReference(recipe.name))
    lines = (scores_line(model, suite) for suite in suites_of(workspace, recipe))
    return any(workspace.store.current(line) is not None for line in lines)


def card_rows(
    scores: Sequence[Scores],
    parents: Sequence[Parent] = (),
    samples: SamplesOf | None = None,
    published: Sequence[Published] = (),
) -> list[dict[str, str]]:
    """Scores as a model card lists them; see :func:`merge_assets.variant.card.with_scores`.

    Args:
        scores: of the variant.
        parents: what it was made of.
        samples: what its documents and theirs say.
        published: what others published of it.
    """
    from merge_assets.evaluation.leaderboard import arrow, beside_parents
    from merge_assets.evaluation.otherwise import set_otherwise
    from merge_assets.evaluation.published import published_beside
    from merge_assets.evaluation.scores import format_delta, format_value

    theirs = published_beside(published, scores)
    asked = {one.suite: set_otherwise(one.otherwise) for one in scores if one.otherwise}
    return [
        {
            "suite": column.suite,
            "task": column.task or "average",
            "metric": column.metric or "",
            "value": format_value(cell.value, column.is_fraction),
            "beside": "; ".join(
                f"{arrow(delta)} {format_delta(delta.difference, column.is_fraction, cell.value)} {delta.verdict.word} "
                f"{'from' if delta.verdict.word == 'cannot tell' else 'than'} {delta.parent}"
                for delta in cell.deltas
            ),
            "published": theirs.get((column.suite, column.task, column.metric), ""),
            "asked": asked.get(column.suite, ""),
        }
        for column, cell in beside_parents(scores, parents, samples).cells.items()
    ]


def card_rows_of(
    workspace: Workspace, variant: Artifact, scores: Sequence[Scores], known: KnownScores, samples: SamplesOf
) -> list[dict[str, str]]:
    """The same of a version of the store, beside the bytes that it was made of.

    Args:
        workspace: by which the models are called.
        variant: the version.
        scores: of it, found by ``known`` or added to ``samples``.
        known: finds those of its parents.
        samples: what the documents say.
    """
    suites = [workspace.suites[one.suite] for one in scores if one.suite in workspace.suites]
    recipe = workspace.book.recipes.get(variant.line.removeprefix(variant_line("")))
    published = recipe.published if recipe is not None else ()
    return card_rows(scores, parents_of(workspace, known, variant, suites), samples, published)


def scored_folder(workspace: Workspace, name: str, folder: Path, work: Work) -> tuple[str, list[dict[str, str]]]:
    """The version of a recipe's variant whose bytes lie in a folder, and its scores as a card lists them; none of both if it
    has no scores.

    Args:
        workspace: whose store is looked at.
        name: of the recipe.
        folder: a variant.
        work: asked while it is read.
    """
    known = KnownScores(workspace)
    for variant in reversed(workspace.store.versions(variant_line(name))):
        scores = scores_of(workspace, known, variant)
        if scores and _is_written(variant, folder, work):
            samples = StoredSamples(known, workspace.cache)
            return variant.version, card_rows_of(workspace, variant, scores, known, samples)
    return "", []


def _is_written(variant: Artifact, folder: Path, work: Work) -> bool:
    """Whether the files that make the fingerprint are those of a version; the first tensor that differs tells."""
    files = variant.manifest.files
    weights = [name for name, entry in files.items() if entry.pieces]
    covered = fingerprint_files(files, weights)
    sizes = sizes_below(folder)
    if fingerprint_files(sizes, weights) != covered or any(sizes.get(name) != files[name].size for name in covered):
        return False
    for name in covered:
        with (folder / name).open("rb") as file:
            if what_is_wrong(file, files[name], Watch(work)) is not None:
                return False
    return True


def out_of_date(workspace: Workspace, artifact: Artifact) -> str | None:
    """Why a version is not what there is, or would be made, now: a recipe's current variant, or scores."""
    kind, _, name = artifact.line.partition("/")
    staleness = Staleness(workspace, thorough=False)
    if kind == "variants" and name in workspace.book.recipes:
        current = staleness.current(name)
        is_current = current is not None and current.version == artifact.version
        return staleness.reason(workspace.book.recipes[name]) if is_current else None
    if kind == "scores":
        for model, fingerprint in artifact.manifest.fingerprints.items():
            return other_scores(fingerprint, staleness.fingerprint(ModelReference.parse(model)))
    return None
