"""From a recipe to slices: which layers of which inputs stand side by side, with the parameter scopes of each.

Templates, ``models:``, ``slices:`` and ``modules:`` all become the same thing here, slices for every part of the variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.architecture import DEFAULT_PART
from merge_assets.checkpoint import Checkpoint
from merge_assets.methods import Method
from merge_assets.plan.made import NOTHING_MADE, MadeTensors
from merge_assets.plan.model import Plan
from merge_assets.plan.problems import plan_error
from merge_assets.plan.resolver import Assembly, Resolver, with_ranges
from merge_assets.recipe import (
    LayerFigure,
    Recipe,
    expand_depth_upscale,
    expand_prune_layers,
    select_layers,
    written_out,
)
from merge_assets.reference import ModelReference


@dataclass(frozen=True)
class PlanInput:
    """One input of a plan: headers and what is known of the bytes behind them.

    Attributes:
        reference: as the recipe writes it.
        checkpoint: headers and config.
        fingerprint: content digest of the checkpoint, if known.
        tensor_digests: digest of every tensor's bytes, if known.
        file_digests: digest of every config and tokenizer file, if known.
        is_variant: whether the reference is another recipe's name, which only this project can resolve.
        folded: the plan of a recipe that is not stored; ``checkpoint`` is then what it would be if it were.
        adapter: what is applied to the model; its checkpoint's ``config`` is ``adapter_config.json``.
        made: tensors of ``checkpoint`` that are made of stored ones, once it describes the input as it is merged.
    """

    reference: ModelReference
    checkpoint: Checkpoint
    fingerprint: str | None = None
    tensor_digests: Mapping[str, str] | None = None
    file_digests: Mapping[str, str] | None = None
    is_variant: bool = False
    folded: Plan | None = None
    adapter: PlanInput | None = None
    made: MadeTensors = NOTHING_MADE


def assemble(
    recipe: Recipe,
    method: Method,
    inputs: Sequence[PlanInput],
    figures: Sequence[LayerFigure] | None,
) -> Assembly:
    """Resolve a recipe's models, slices or template against the layer counts of its inputs.

    Args:
        recipe: the recipe.
        method: its merge method.
        inputs: every model that the recipe refers to.
        figures: per-layer figures of the analysis that ``prune_layers`` asks for, if there is one.

    Raises:
        PlanError: if a layer range does not exist, sources differ in length, the number of inputs does not suit the
            method, or an analysis is needed and missing.
    """
    resolver = Resolver(recipe, method, inputs)
    if recipe.depth_upscale is not None:
        count = resolver.layer_count(recipe.depth_upscale.model, "depth_upscale.model")
        expanded = expand_depth_upscale(recipe.depth_upscale, count, recipe.source.file)
        return resolver.assembly(resolver.around_slices(expanded, "depth_upscale"), expanded)
    if recipe.prune_layers is not None:
        return _prune(recipe, resolver, figures)
    if recipe.average_checkpoints is not None:
        plain = written_out(recipe)
        return resolver.assembly(resolver.whole_models(plain.models or (), "average_checkpoints", (plain.parameters,)))
    if recipe.modules is not None and set(recipe.modules) != {DEFAULT_PART}:
        return resolver.assembly(resolver.from_modules())
    where, module = "", recipe.modules[DEFAULT_PART] if recipe.modules is not None else None
    outer: tuple[Mapping[str, Any], ...] = (recipe.parameters,)
    if module is not None:
        where, outer = f"modules.{DEFAULT_PART}.", (module.parameters, recipe.parameters)
    slices, models = (recipe.slices, recipe.models) if module is None else (module.slices, module.models)
    if slices is None:
        assert models is not None
        return resolver.assembly(resolver.whole_models(models, f"{where}models", outer))
    parts = resolver.around_slices(slices, f"{where}slices", outer)
    written = with_ranges(slices, parts[0].slices)
    if module is not None:
        resolver.write(DEFAULT_PART, written)
        return resolver.assembly(parts)
    return resolver.assembly(parts, None if written == tuple(slices) else written)


def _prune(recipe: Recipe, resolver: Resolver, figures: Sequence[LayerFigure] | None) -> Assembly:
    template = recipe.prune_layers
    assert template is not None
    count = resolver.layer_count(template.model, "prune_layers.model")
    if template.is_measured and resolver.inputs[resolver.index[template.model]].folded is not None:
        raise plan_error(recipe, "prune_layers.model", not_analysed(template.model))
    if figures is None:
        if template.is_measured:
            how = f"snr {template.model}"
            if template.text is not None:
                options = {"kind": template.importance, "text": template.text.file}
                options |= template.text.model_dump(exclude={"file"}, exclude_defaults=True)
                how = " ".join(
                    [f"importance {template.model}", *(f"--{name} {value}" for name, value in options.items())]
                )
            raise plan_error(
                recipe,
                "prune_layers.by",
                f"needs the layer analysis of {template.model}, which is not in the store; "
                f"run `merge-assets {how}` or `merge-assets build {recipe.name}`",
            )
        figures = ()
    removed = select_layers(template, figures, count, recipe.source.file)
    expanded = expand_prune_layers(template, count, removed)
    by_layer = {figure.layer: figure for figure in figures}
    kept_figures = tuple(by_layer[layer] for layer in removed if layer in by_layer)
    return resolver.assembly(resolver.around_slices(expanded, "prune_layers"), expanded, kept_figures)


def not_analysed(model: ModelReference) -> str:
    """Why layers of a folded recipe cannot be chosen by an analysis, and what to do."""
    return f"{model} is not stored (materialize: false), so it cannot be analysed; store it, or name the layers with by: list"
