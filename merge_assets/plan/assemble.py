"""From a recipe to slices: which layers of which inputs stand side by side, with the parameter scopes of each.

Templates, ``models:`` and ``slices:`` all become the same thing here, a list of :class:`ResolvedSlice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.checkpoint import Checkpoint
from merge_assets.errors import PlanError
from merge_assets.plan.methods import Method
from merge_assets.plan.model import Plan
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import (
    LayerFigure,
    Module,
    Recipe,
    Slice,
    expand_depth_upscale,
    expand_prune_layers,
    select_layers,
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
    """

    reference: ModelReference
    checkpoint: Checkpoint
    fingerprint: str | None = None
    tensor_digests: Mapping[str, str] | None = None
    file_digests: Mapping[str, str] | None = None
    is_variant: bool = False
    folded: Plan | None = None


@dataclass(frozen=True)
class ResolvedSource:
    """One input of a slice: layers ``start`` to ``end`` (exclusive) of input ``model``."""

    model: int
    start: int
    end: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ResolvedSlice:
    """Sources whose layers are merged one by one; ``base`` indexes ``sources``."""

    sources: tuple[ResolvedSource, ...]
    base: int | None
    parameters: Mapping[str, Any]
    key: str

    @property
    def layers(self) -> int:
        return self.sources[0].end - self.sources[0].start


@dataclass(frozen=True)
class Assembly:
    """All slices of a variant, bottom to top, and what templates decided on the way.

    Attributes:
        slices: bottom to top.
        outer: parameter scopes behind the slice's own: module, then recipe.
        expanded: the plain slices a template stands for, ``None`` if the recipe had none.
        removed: figures of the layers that ``prune_layers`` removed.
    """

    slices: tuple[ResolvedSlice, ...]
    outer: tuple[Mapping[str, Any], ...]
    expanded: tuple[Slice, ...] | None
    removed: tuple[LayerFigure, ...]


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
    index = {item.reference: position for position, item in enumerate(inputs)}
    resolver = _Resolver(recipe, method, inputs, index)
    if recipe.depth_upscale is not None:
        count = resolver.layer_count(recipe.depth_upscale.model, "depth_upscale.model")
        expanded = expand_depth_upscale(recipe.depth_upscale, count, recipe.source.file)
        return Assembly(resolver.from_slices(expanded, "depth_upscale"), (recipe.parameters,), expanded, ())
    if recipe.prune_layers is not None:
        return _prune(recipe, resolver, figures)
    if recipe.modules is not None:
        module = _only_module(recipe)
        outer: tuple[Mapping[str, Any], ...] = (module.parameters, recipe.parameters)
        where = "modules.default."
        slices, models = module.slices, module.models
    else:
        outer, where, slices, models = (recipe.parameters,), "", recipe.slices, recipe.models
    if slices is not None:
        resolved = resolver.from_slices(slices, f"{where}slices")
        explicit = recipe.modules is not None or all(s.layer_range is not None for p in slices for s in p.sources)
        return Assembly(resolved, outer, None if explicit else _with_ranges(slices, resolved), ())
    assert models is not None
    return Assembly((resolver.from_models(models, f"{where}models"),), outer, None, ())


def _with_ranges(slices: Sequence[Slice], resolved: Sequence[ResolvedSlice]) -> tuple[Slice, ...]:
    """The same slices with every ``layer_range`` written out."""
    return tuple(
        piece.model_copy(
            update={
                "sources": tuple(
                    source.model_copy(update={"layer_range": (found.start, found.end)})
                    for source, found in zip(piece.sources, whole.sources, strict=True)
                )
            }
        )
        for piece, whole in zip(slices, resolved, strict=True)
    )


def _only_module(recipe: Recipe) -> Module:
    assert recipe.modules is not None
    if set(recipe.modules) != {"default"}:
        names = ", ".join(sorted(recipe.modules))
        raise plan_error(
            recipe, "modules", f"found modules {names}; the inputs have a single module, which is called 'default'"
        )
    return recipe.modules["default"]


def _prune(recipe: Recipe, resolver: _Resolver, figures: Sequence[LayerFigure] | None) -> Assembly:
    template = recipe.prune_layers
    assert template is not None
    count = resolver.layer_count(template.model, "prune_layers.model")
    measured = template.by not in ("list", "reverse_order")
    if measured and resolver.inputs[resolver.index[template.model]].folded is not None:
        raise plan_error(recipe, "prune_layers.model", not_analysed(template.model))
    if figures is None:
        if measured:
            raise plan_error(
                recipe,
                "prune_layers.by",
                f"needs the layer analysis of {template.model}, which is not in the store; "
                f"run `merge-assets snr {template.model}` or `merge-assets build {recipe.name}`",
            )
        figures = ()
    removed = select_layers(template, figures, count, recipe.source.file)
    expanded = expand_prune_layers(template, count, removed)
    by_layer = {figure.layer: figure for figure in figures}
    kept_figures = tuple(by_layer[layer] for layer in removed if layer in by_layer)
    return Assembly(resolver.from_slices(expanded, "prune_layers"), (recipe.parameters,), expanded, kept_figures)


def not_analysed(model: ModelReference) -> str:
    """Why layers of a folded recipe cannot be chosen by an analysis, and what to do."""
    return f"{model} is not stored (materialize: false), so it cannot be analysed; store it, or name the layers with by: list"


class _Resolver:
    def __init__(
        self, recipe: Recipe, method: Method, inputs: Sequence[PlanInput], index: Mapping[ModelReference, int]
    ) -> None:
        self.recipe = recipe
        self.method = method
        self.inputs = inputs
        self.index = index

    def fail(self, key: str, message: str) -> PlanError:
        return plan_error(self.recipe, key, message)

    def layer_count(self, reference: ModelReference, key: str) -> int:
        count = self.inputs[self.index[reference]].checkpoint.layer_count
        if count == 0:
            raise self.fail(key, f"{reference} has no repeated layers; list it under `models:` to merge it whole")
        return count

    def from_models(self, models: Sequence[Any], key: str) -> ResolvedSlice:
        sources = []
        for entry in models:
            position = self.index[entry.model]
            sources.append(
                ResolvedSource(position, 0, self.inputs[position].checkpoint.layer_count, dict(entry.parameters))
            )
        base = self.recipe.base_model
        place = self._base_place(sources, base)
        if self.method.has_base and base is not None and place is None:
            position = self.index[base]
            sources.insert(0, ResolvedSource(position, 0, self.inputs[position].checkpoint.layer_count, {}))
            place = 0
        return self._checked(sources, place, {}, key)

    def from_slices(self, slices: Sequence[Slice], key: str) -> tuple[ResolvedSlice, ...]:
        resolved = []
        for number, piece in enumerate(slices):
            where = f"{key}[{number}]"
            sources = []
            for place, source in enumerate(piece.sources):
                spot = f"{where}.sources[{place}].layer_range"
                count = self.layer_count(source.model, f"{where}.sources[{place}].model")
                start, end = source.layer_range if source.layer_range is not None else (0, count)
                if end > count:
                    raise self.fail(
                        spot, f"[{start}, {end}] is out of bounds: {source.model} has {count} layers, 0 to {count - 1}"
                    )
                sources.append(ResolvedSource(self.index[source.model], start, end, dict(source.parameters)))
            base = piece.base_model or self.recipe.base_model
            base_place = self._base_place(sources, base)
            if self.method.has_base and base is not None and base_place is None:
                raise self.fail(
                    f"{where}.sources", f"the base model {base} is not among the sources; add it with its layer_range"
                )
            resolved.append(self._checked(sources, base_place, dict(piece.parameters), where))
        return tuple(resolved)

    def _base_place(self, sources: Sequence[ResolvedSource], base: ModelReference | None) -> int | None:
        if base is None or not self.method.has_base:
            return None
        position = self.index[base]
        return next((place for place, source in enumerate(sources) if source.model == position), None)

    def _checked(
        self, sources: list[ResolvedSource], base: int | None, parameters: Mapping[str, Any], key: str
    ) -> ResolvedSlice:
        lengths = [source.end - source.start for source in sources]
        if len(set(lengths)) > 1:
            listing = "; ".join(
                f"{self.inputs[s.model].reference} [{s.start}, {s.end}] has {s.end - s.start}" for s in sources
            )
            raise self.fail(key, f"sources differ in their number of layers: {listing}")
        method = self.method
        if method.needs_base and base is None:
            raise self.fail("base_model", f"missing; method {method.name} needs a base model")
        count = len(sources) - (base is not None)
        if count < method.least or (method.most is not None and count > method.most):
            wanted = str(method.least) if method.least == method.most else f"at least {method.least}"
            if method.most is not None and method.most != method.least:
                wanted = f"{method.least} to {method.most}"
            beside = " besides the base" if base is not None else ""
            raise self.fail(
                key, f"method {method.name} takes {wanted} model{'s'[: wanted != '1']}{beside}, found {count}"
            )
        return ResolvedSlice(tuple(sources), base, parameters, key)
