"""Plan variants: from headers alone, or with all that their inputs hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from merge_assets.errors import in_file
from merge_assets.model_worker import Limits
from merge_assets.plan import Plan, PlanInput, Together, build_plan, check_alone
from merge_assets.recipe import Recipe
from merge_assets.reference import ModelReference
from merge_assets.variant.agreement import check_agreement
from merge_assets.variant.depth import moved_layers
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace


def plan(workspace: Workspace, recipe: Recipe, *, shard_size: int | None = None, models: Models | None = None) -> Plan:
    """Plan a recipe from headers alone. Digests of local models are in it where they are known from earlier.

    Args:
        workspace: the project.
        recipe: the recipe.
        shard_size: in the place of the setting.
        models: those that were opened for other recipes of the same call.

    Raises:
        MergeAssetsError: for everything that is wrong with the recipe or its inputs.
    """
    return plan_of_headers(workspace, recipe, shard_size, with_digests=True, models=models)


def plan_of_headers(
    workspace: Workspace, recipe: Recipe, shard_size: int | None, *, with_digests: bool, models: Models | None = None
) -> Plan:
    """As :func:`plan`; without digests what is planned does not depend on what happens to be known of the inputs."""
    recipe = workspace.listed(recipe)
    check_alone(recipe)
    with in_file(recipe.source.file):
        workspace.names.check_models(recipe)  # before the Hub is asked for any
        models = models or Models(workspace)
        inputs = [models.headers(reference, with_digests=with_digests) for reference in recipe.references()]
    return planned(workspace, models, recipe, inputs, shard_size)


def fetched_inputs(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    commits: Mapping[ModelReference, str] | None,
    work: Work,
    *,
    with_digests: bool = True,
) -> list[PlanInput]:
    """The inputs of a recipe, of which those in an object store stay there."""
    recorded = commits or {}
    folded: dict[str, PlanInput] = {}

    def inputs(made: Recipe) -> list[PlanInput]:
        with in_file(made.source.file):
            return [fetched(reference) for reference in made.references()]

    def fetched(reference: ModelReference) -> PlanInput:
        item = model(reference.model)
        if reference.lora is None:
            return item
        return models.fetch_adapter(
            item, reference, commit=recorded.get(reference.lora), with_digests=with_digests, work=work
        )

    def model(reference: ModelReference) -> PlanInput:
        inner = workspace.book.resolve_folded(reference)
        if inner is not None:
            return folded[inner.name]
        return models.fetch(
            reference, commit=recorded.get(reference), local=False, with_digests=with_digests, work=work
        )

    for inner in workspace.book.folded(recipe):
        made = planned(workspace, models, inner, inputs(inner), None, work)
        folded[inner.name] = models.folded_input(ModelReference(inner.name), made)
    return inputs(recipe)


def planned(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    inputs: list[PlanInput],
    shard_size: int | None,
    work: Work = UNATTENDED,
    together: Together | None = None,
) -> Plan:
    """The plan of a recipe on inputs that were opened, which transformers agrees with; ``together`` as of :func:`build_plan`,
    by default that of its sweep."""
    fingerprint = None
    if recipe.prune_layers is not None:
        fingerprint = next(i.fingerprint for i in inputs if i.reference == recipe.prune_layers.model)
    size = shard_size or int(workspace.settings.shard_size)
    with in_file(recipe.source.file):
        figures = models.figures(recipe, fingerprint)
        together = together or models.together(recipe)
        made = build_plan(recipe, inputs, shard_size=size, figures=figures, together=together)
        limits = Limits.of(workspace.settings)
        check_agreement(made, inputs, str(recipe.source.file), limits=limits, work=work)
        moved = moved_layers(made, inputs, limits=limits, work=work)
    return replace(made, warnings=(*made.warnings, *moved)) if moved else made


def device_of(workspace: Workspace, recipe: Recipe) -> str:
    """Where a recipe is computed: what it says itself, else the setting."""
    return recipe.device if recipe.device != "auto" else workspace.settings.device
