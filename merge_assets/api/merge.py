"""Build variants into folders."""

from __future__ import annotations

from pathlib import Path

from merge_assets.api.build import build
from merge_assets.api.joined import scored_folder
from merge_assets.api.plan import device_of, fetched_inputs, plan_of_headers, planned
from merge_assets.api.staging import publish, staging_folder
from merge_assets.errors import EngineError
from merge_assets.extras import require
from merge_assets.plan.code import trusted_in
from merge_assets.recipe import Recipe
from merge_assets.records import BuildReport
from merge_assets.variant.card import CARD, with_scores
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace


def merge(
    workspace: Workspace,
    recipe: Recipe,
    out: Path | str,
    *,
    device: str | None = None,
    threads: int | None = None,
    shard_size: int | None = None,
    tile: int | None = None,
    overwrite: bool = False,
    work: Work = UNATTENDED,
) -> BuildReport:
    """Build a recipe's variant into a folder; also that of a recipe which is not stored.

    The folder appears, or replaces the earlier one, only when it is complete. Recipes that this one refers to are
    built into the store first if they are not there, save those that are not stored: they are folded in.

    Raises:
        EngineError: if ``out`` holds files and ``overwrite`` is False, or the build fails.
        MergeAssetsError: if the recipe does not fit its inputs.
    """
    from merge_assets.engine.execute import execute
    from merge_assets.variant.surroundings import write_surroundings

    target = Path(out)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise EngineError(f"{target}: is not a folder; choose another output folder")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise EngineError(
            f"{target}: holds files already; choose another output folder, or replace it with --overwrite"
        )
    # Everything that is wrong with the recipe, before anything is built or downloaded. What is written does not depend on
    # what happens to be known of the inputs.
    recipe = workspace.listed(recipe)
    made = plan_of_headers(workspace, recipe, shard_size, with_digests=False)
    chosen = device or device_of(workspace, recipe)
    if chosen.startswith("cuda") or any(t.declaration is not None and t.declaration.in_torch for t in made.tensors):
        require("torch")
    # Only an analysis of exactly these bytes may choose layers.
    measured = any(part.prune_layers is not None for part in (recipe, *workspace.book.folded(recipe)))
    inputs, models = workspace.book.inputs(recipe), Models(workspace)
    if measured or any(
        workspace.names.identify(r.model).kind != "local" or workspace.names.uses_hub(r) for r in inputs
    ):
        _build_parents(workspace, recipe, work.silent())
        models = Models(workspace)
        fetched = fetched_inputs(workspace, models, recipe, None, work, with_digests=measured)
        made = planned(workspace, models, recipe, fetched, shard_size, work)
    try:
        with staging_folder(target) as staging:
            report = execute(
                made,
                staging,
                device=chosen,
                threads=threads or workspace.settings.threads,
                tile=tile,
                memory=int(workspace.settings.memory),
                work=work,
                allow_nonfinite=recipe.allow_nonfinite,
                inputs=workspace.stored.inputs(models.local.digested_states),
                verify=workspace.settings.verify_inputs,
            )
            write_surroundings(made, recipe, staging, workspace.stored.read, trusted_in(workspace.book, recipe))
            _add_scores(workspace, recipe, staging, work)
            publish(staging, target)
    except OSError as error:
        raise EngineError(f"{error.filename or target}: {error.strerror}; choose another output folder") from error
    return report


def _add_scores(workspace: Workspace, recipe: Recipe, folder: Path, work: Work) -> None:
    """Write the scores of the version that lies in a folder into its card, if the store has any of exactly these bytes."""
    version, rows = scored_folder(workspace, recipe.name, folder, work.silent())
    if rows:
        card = folder / CARD
        text = with_scores(card.read_text(encoding="utf-8"), version, rows)
        card.write_text(text, encoding="utf-8")


def _build_parents(workspace: Workspace, recipe: Recipe, work: Work) -> None:
    """Bring the variants that a recipe is made of, and those that they are made of, into the store."""
    for parent in workspace.book.made_of(recipe):
        if parent.materialize:
            build(workspace, parent, work=work)
