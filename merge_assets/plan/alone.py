"""What is wrong with a recipe by itself, whatever its models hold: said before anybody is asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from merge_assets.errors import PlanError
from merge_assets.methods import Method, find_method
from merge_assets.plan.made import MAKERS
from merge_assets.plan.parameters import check_names, check_values
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import Module, Recipe, check_built, written_out
from merge_assets.reference import ModelReference


def check_alone(recipe: Recipe) -> tuple[Method, list[str]]:
    """Check the method, the names and values of its parameters, its base, how many models it merges, and the checkpoints of a
    training run that it averages.

    Returns:
        The method, and warnings for parameters that have no effect and for checkpoints that are left out.

    Raises:
        PlanError: for the first thing that is wrong.
    """
    check_built(recipe)
    if recipe.merge_method in MAKERS:
        raise plan_error(
            recipe, "merge_method", f"{recipe.merge_method} is not a merge method; docs/methods.md lists them"
        )
    try:
        method = find_method(recipe.merge_method)
    except PlanError as error:
        raise plan_error(recipe, "merge_method", error.message) from None
    warnings = [*_left_out(recipe), *check_names(recipe, method)]
    _check_models(recipe, method, recipe, "")
    for name, module in (recipe.modules or {}).items():
        _check_models(recipe, method, module, f"modules.{name}.")
    check_values(written_out(recipe), method)
    return method, [*warnings, *_without_effect(recipe, method)]


def check_count(recipe: Recipe, method: Method, count: int, key: str, *, with_base: bool) -> None:
    """Check that a method has the base and the number of models that it takes.

    Args:
        recipe: for errors.
        method: the method.
        count: models that are merged, the base among them.
        key: where they are listed.
        with_base: whether there is a base.

    Raises:
        PlanError: if it has not.
    """
    if method.needs_base and not with_base:
        raise plan_error(recipe, "base_model", f"missing; method {method.name} needs a base model")
    others = count - with_base
    if others < method.least or (method.most is not None and others > method.most):
        wanted = str(method.least) if method.least == method.most else f"at least {method.least}"
        if method.most is not None and method.most != method.least:
            wanted = f"{method.least} to {method.most}"
        beside = " besides the base" if with_base else ""
        raise plan_error(
            recipe, key, f"method {method.name} takes {wanted} model{'s'[: wanted != '1']}{beside}, found {others}"
        )


def check_base(recipe: Recipe, base: ModelReference | None, sources: Sequence[ModelReference], key: str) -> None:
    """Check that the base of a slice is among its sources, where its layers are named.

    Raises:
        PlanError: if it is not.
    """
    if base is not None and base not in sources:
        raise plan_error(
            recipe, f"{key}.sources", f"the base model {base} is not among the sources; add it with its layer_range"
        )


def _left_out(recipe: Recipe) -> tuple[str, ...]:
    """The checkpoints of a folder that are not averaged, and why.

    Raises:
        PlanError: if there is nothing to average.
    """
    template = recipe.average_checkpoints
    if template is None or template.folder is None:
        return ()
    found = template.listing
    if found is None:
        message = f"nobody has looked into {template.folder} yet; take the recipe from a workspace"
        raise plan_error(recipe, "average_checkpoints.folder", message)
    if found.problem is not None:
        raise plan_error(recipe, f"average_checkpoints.{found.key}", found.problem)
    return found.left_out


def _without_effect(recipe: Recipe, method: Method) -> Iterator[str]:
    """What is written and does nothing, or does more than it seems to."""
    models = [entry.model for entry in recipe.models or ()]
    for number, entry in enumerate(recipe.models or ()):
        per_model = [name for name in entry.parameters if (known := method.parameter(name)) and known.per_model]
        if method.needs_base and entry.model == recipe.base_model and per_model:
            named = " and ".join(per_model)
            yield f"models[{number}].parameters: {named} of {entry.model} has no effect, since it is the base model"
        if entry.model in models[:number]:
            yield f"models[{number}].model: {entry.model} is listed twice, and counts twice"


def _check_models(recipe: Recipe, method: Method, body: Recipe | Module, prefix: str) -> None:
    if body.models is not None:
        models = [entry.model for entry in body.models]
        base = recipe.base_model if method.has_base else None
        more = base is not None and base not in models  # it need not be listed
        check_count(recipe, method, len(models) + more, f"{prefix}models", with_base=base is not None)
    for number, piece in enumerate(body.slices or ()):
        sources = [source.model for source in piece.sources]
        base = (piece.base_model or recipe.base_model) if method.has_base else None
        key = f"{prefix}slices[{number}]"
        check_base(recipe, base, sources, key)
        check_count(recipe, method, len(sources), key, with_base=base is not None)
