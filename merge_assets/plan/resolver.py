"""The slices of a recipe against the layers of its inputs: which layers stand side by side in every part of a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_assets.architecture import DEFAULT_PART, Part
from merge_assets.errors import PlanError, did_you_mean
from merge_assets.methods import Method
from merge_assets.plan.alone import check_base, check_count
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import TEMPLATES, LayerFigure, ModelEntry, Module, Recipe, Slice
from merge_assets.reference import ModelReference

if TYPE_CHECKING:
    from merge_assets.plan.assemble import PlanInput


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
class ResolvedPart:
    """One part of a variant with the slices it is made of, bottom to top.

    Attributes:
        name: of the part, as the inputs have it.
        slices: bottom to top.
        outer: parameter scopes behind the slices' own: module, then recipe.
        varies: whether gradients run over the layers; elsewhere they stand at their start, as outside the layers.
        carried: whether it is the donor's, unchanged, whatever the method.
    """

    name: str
    slices: tuple[ResolvedSlice, ...]
    outer: tuple[Mapping[str, Any], ...]
    varies: bool = True
    carried: bool = False

    @property
    def layers(self) -> int:
        """Number of layers in the variant."""
        return sum(piece.layers for piece in self.slices)


@dataclass(frozen=True)
class Assembly:
    """All parts of a variant, and what templates decided on the way.

    Attributes:
        parts: the main one first.
        donor: index of the input that gives config and tokenizer: the base model, or else the first listed.
        recipe: with every ``layer_range`` of its modules written out.
        expanded: the plain slices a template stands for, ``None`` if the recipe had none.
        removed: figures of the layers that ``prune_layers`` removed.
    """

    parts: tuple[ResolvedPart, ...]
    donor: int
    recipe: Recipe
    expanded: tuple[Slice, ...] | None
    removed: tuple[LayerFigure, ...]

    @property
    def merged(self) -> list[int]:
        """Inputs of which layers are merged or stacked, in order."""
        pieces = [piece for part in self.parts if not part.carried for piece in part.slices]
        return sorted({source.model for piece in pieces for source in piece.sources})

    @property
    def slices(self) -> tuple[ResolvedSlice, ...]:
        """The main part's slices."""
        return self.parts[0].slices


def with_ranges(slices: Sequence[Slice], resolved: Sequence[ResolvedSlice]) -> tuple[Slice, ...]:
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


class Resolver:
    """Looks up models, parts and layer ranges of one recipe.

    Attributes:
        ranged: the recipe with every ``layer_range`` of its modules written out, as far as they were resolved.
    """

    def __init__(self, recipe: Recipe, method: Method, inputs: Sequence[PlanInput]) -> None:
        self.recipe = recipe
        self.method = method
        self.inputs = inputs
        self.index = {item.reference: position for position, item in enumerate(inputs)}
        self.ranged = recipe

    def fail(self, key: str, message: str) -> PlanError:
        return plan_error(self.recipe, key, message)

    def assembly(
        self,
        parts: tuple[ResolvedPart, ...],
        expanded: tuple[Slice, ...] | None = None,
        removed: tuple[LayerFigure, ...] = (),
    ) -> Assembly:
        """The parts with what goes with them."""
        return Assembly(parts, self.donor, self.ranged, expanded, removed)

    def write(self, name: str, slices: tuple[Slice, ...]) -> None:
        """Keep a module's slices with their layer ranges written out."""
        modules = dict(self.ranged.modules or {})
        modules[name] = modules[name].model_copy(update={"slices": slices})
        self.ranged = self.ranged.model_copy(update={"modules": modules})

    @property
    def donor(self) -> int:
        """The base model, or else the first model listed."""
        recipe = self.recipe
        templates = [settings for key in TEMPLATES if (settings := getattr(recipe, key)) is not None]
        body: Recipe | Module = next(iter(recipe.modules.values())) if recipe.modules else recipe
        if recipe.base_model is not None:
            return self.index[recipe.base_model]
        if templates:
            return self.index[templates[0].model]
        if recipe.average_checkpoints is not None:
            return self.index[next(model for _, model in recipe.average_checkpoints.mentions())]
        if body.models is not None:
            return self.index[body.models[0].model]
        assert body.slices is not None
        return self.index[body.slices[0].sources[0].model]

    def layer_count(self, reference: ModelReference, key: str, part: str | None = None) -> int:
        """Layers of a part of an input, of the main one by default; an error if it has none."""
        count = self._part(self.index[reference], part, key).count
        if count == 0:
            raise self.fail(key, f"{reference} has no repeated layers; list it under `models:` to merge it whole")
        return count

    def whole_models(
        self, models: Sequence[ModelEntry], key: str, outer: tuple[Mapping[str, Any], ...]
    ) -> tuple[ResolvedPart, ...]:
        """Every part of whole models that the donor has; of an encoder alone, what others have as their encoder."""
        base = self.recipe.base_model
        listed = [entry.model for entry in models]
        read = [self.index[model] for model in (*listed, *((base,) if base and self.method.has_base else ()))]
        names = self._part_names(self.donor)
        first = self._part(self.donor, None, key)
        if names == [DEFAULT_PART] and any(self._has_both_coders(model) for model in read):
            names = [first.coder or DEFAULT_PART]
        return tuple(
            self._given(name, key, read) or ResolvedPart(name, (self.from_models(models, key, name),), outer)
            for name in names
        )

    def around_slices(
        self, slices: Sequence[Slice], key: str, outer: tuple[Mapping[str, Any], ...] | None = None
    ) -> tuple[ResolvedPart, ...]:
        """The main part of slices, and the other parts whole, from the sources of the first slice."""
        scopes = (self.recipe.parameters,) if outer is None else outer
        resolved = self.from_slices(slices, key)
        main, *others = self._part_names(self.donor)
        return (
            ResolvedPart(main, resolved, scopes),
            *(
                self._given(name, key, [source.model for source in resolved[0].sources])
                or ResolvedPart(name, (self._whole(resolved[0], name),), scopes, varies=False)
                for name in others
            ),
        )

    def from_modules(self) -> tuple[ResolvedPart, ...]:
        """Named parts as their modules say, the donor's for all others."""
        modules = self.recipe.modules
        assert modules is not None
        donor = self.donor
        names = self._part_names(donor)
        if len(names) == 1:
            listing = ", ".join(sorted(modules))
            raise self.fail(
                "modules", f"found modules {listing}; the inputs have a single module, which is called '{DEFAULT_PART}'"
            )
        for name in modules:
            if name not in names:
                raise self.fail(
                    f"modules.{name}", f"{self._titled(donor)}; there is no {name}{did_you_mean(name, names)}"
                )
        parts = []
        for part in self.inputs[donor].checkpoint.parts:
            if part.name in modules:
                parts.append(self._from_module(part.name, modules[part.name]))
            else:
                parts.append(self._carried(part))
        return tuple(parts)

    def _from_module(self, name: str, module: Module) -> ResolvedPart:
        outer, key = (module.parameters, self.recipe.parameters), f"modules.{name}"
        if module.slices is None:
            assert module.models is not None
            return ResolvedPart(name, (self.from_models(module.models, f"{key}.models", name),), outer)
        resolved = self.from_slices(module.slices, f"{key}.slices", name)
        self.write(name, with_ranges(module.slices, resolved))
        return ResolvedPart(name, resolved, outer)

    def _given(self, name: str, key: str, models: Sequence[int]) -> ResolvedPart | None:
        """The donor's part, unchanged, where not all of these models have it and can do without: a tower or projector beside
        models of text alone, a decoder beside an encoder alone. ``None`` for other parts, and where all have it."""
        part = self._part(self.donor, name, key)
        lacking = [model for model in models if self.inputs[model].checkpoint.part(name) is None]
        do_without = part.is_beside or all(self._is_coder_alone(model) for model in lacking)
        return self._carried(part) if lacking and do_without else None

    def _is_coder_alone(self, model: int) -> bool:
        """Whether an input is what the donor has as its encoder, or its decoder."""
        parts = self.inputs[model].checkpoint.parts
        alone = len(parts) == 1 and parts[0].name == DEFAULT_PART
        return alone and self._has_both_coders(self.donor) and parts[0].coder in self._part_names(self.donor)

    def _has_both_coders(self, model: int) -> bool:
        return {"encoder", "decoder"} <= set(self._part_names(model))

    def _carried(self, part: Part) -> ResolvedPart:
        piece = ResolvedSlice((ResolvedSource(self.donor, 0, part.count, {}),), None, {}, "modules")
        return ResolvedPart(part.name, (piece,), (), carried=True)

    def _part_names(self, model: int) -> list[str]:
        return [part.name for part in self.inputs[model].checkpoint.parts] or [DEFAULT_PART]

    def _titled(self, model: int) -> str:
        return f"{self.inputs[model].reference} has the parts {', '.join(self._part_names(model))}"

    def _part(self, model: int, name: str | None, key: str) -> Part:
        """A part of an input, the main one for ``None``."""
        checkpoint = self.inputs[model].checkpoint
        if name is None or not checkpoint.parts:
            return checkpoint.parts[0] if checkpoint.parts else Part(DEFAULT_PART, (), ())
        part = checkpoint.part(name)
        if part is None:
            raise self.fail(key, f"{self._titled(model)}; there is no {name}, which another source has")
        return part

    def _whole(self, piece: ResolvedSlice, name: str) -> ResolvedSlice:
        """All of a part from the models of a slice."""
        sources = tuple(
            ResolvedSource(s.model, 0, self._part(s.model, name, piece.key).count, s.parameters) for s in piece.sources
        )
        return self._checked(list(sources), piece.base, piece.parameters, piece.key)

    def from_models(self, models: Sequence[ModelEntry], key: str, part: str | None = None) -> ResolvedSlice:
        """One part of whole models, side by side."""
        sources = []
        for entry in models:
            position = self.index[entry.model]
            sources.append(ResolvedSource(position, 0, self._part(position, part, key).count, dict(entry.parameters)))
        base = self.recipe.base_model
        place = self._base_place(sources, base)
        if self.method.has_base and base is not None and place is None:
            position = self.index[base]
            sources.insert(0, ResolvedSource(position, 0, self._part(position, part, key).count, {}))
            place = 0
        return self._checked(sources, place, {}, key)

    def from_slices(self, slices: Sequence[Slice], key: str, part: str | None = None) -> tuple[ResolvedSlice, ...]:
        """The layers of one part as slices name them."""
        resolved = []
        for number, piece in enumerate(slices):
            where = f"{key}[{number}]"
            sources = []
            for place, source in enumerate(piece.sources):
                spot = f"{where}.sources[{place}].layer_range"
                count = self.layer_count(source.model, f"{where}.sources[{place}].model", part)
                start, end = source.layer_range if source.layer_range is not None else (0, count)
                if end > count:
                    raise self.fail(
                        spot, f"[{start}, {end}] is out of bounds: {source.model} has {count} layers, 0 to {count - 1}"
                    )
                sources.append(ResolvedSource(self.index[source.model], start, end, dict(source.parameters)))
            base = piece.base_model or self.recipe.base_model
            if self.method.has_base:
                check_base(self.recipe, base, [source.model for source in piece.sources], where)
            base_place = self._base_place(sources, base)
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
        check_count(self.recipe, self.method, len(sources), key, with_base=base is not None)
        return ResolvedSlice(tuple(sources), base, parameters, key)
