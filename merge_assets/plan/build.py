"""Build a plan: every check that headers allow, then every output tensor with its expression and its place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from merge_assets.architecture import rewrite_config
from merge_assets.architecture.config import LayerOrigin, without_predictions
from merge_assets.architecture.precision import stays_float32
from merge_assets.checkpoint import CODES, TORCH_NAMES, TensorHeader
from merge_assets.checkpoint.files import weights_stem
from merge_assets.errors import CheckpointError, PlanError, RecipeError
from merge_assets.methods import Method, find_method
from merge_assets.plan.alone import check_alone
from merge_assets.plan.assemble import PlanInput, assemble
from merge_assets.plan.by_layer import laid_by_layer
from merge_assets.plan.compatibility import differences, unlike_shapes, without_elements
from merge_assets.plan.decisions import Decisions
from merge_assets.plan.dropped import left_out
from merge_assets.plan.inputs import MAX_FOLDED, Inputs, lifted, plan_key, tensor_key
from merge_assets.plan.layers import InputLayers, layer_spans
from merge_assets.plan.layout import lay_out
from merge_assets.plan.missing import Missing
from merge_assets.plan.model import OutputTensor, Plan, Shard, TensorInput
from merge_assets.plan.outside import outside_tensors, tied_output
from merge_assets.plan.parameters import check_weights, resolve_parameters
from merge_assets.plan.prepare import notes, prepared
from merge_assets.plan.problems import plan_error
from merge_assets.plan.regroup import grouped_alike
from merge_assets.plan.relabel import with_architecture
from merge_assets.plan.resolver import Assembly, ResolvedPart, ResolvedSlice, Resolver
from merge_assets.plan.sharing import Keys, Together
from merge_assets.plan.spelling import spelled_alike
from merge_assets.plan.tied import TiedHeads
from merge_assets.plan.vocabulary import plan_vocabulary
from merge_assets.plan.whole_numbers import COMPUTABLE, WholeNumbers
from merge_assets.recipe import BODIES, LayerFigure, Recipe, to_mergekit, with_stages


def build_plan(
    recipe: Recipe,
    inputs: Sequence[PlanInput],
    *,
    shard_size: int = 5_000_000_000,
    figures: Sequence[LayerFigure] | None = None,
    together: Together | None = None,
) -> Plan:
    """Resolve a recipe against the headers of its inputs.

    Args:
        recipe: the recipe.
        inputs: one entry for every model of ``recipe.references()``.
        shard_size: largest size of an output shard, bytes.
        figures: per-layer figures for ``prune_layers``, if the analysis is there.
        together: of a point of a sweep, what tells which files all points share.

    Raises:
        PlanError: for everything that is wrong with the recipe and can be seen without reading weights.
    """
    # Figures are of the recipe's own metric, and do not say which layers another point would lose.
    shared = (together or Together()).groups(inputs, _keys) if figures is None else {}
    return _Builder(recipe, inputs, figures).plan(shard_size, shared)


def _keys(recipe: Recipe, inputs: Sequence[PlanInput]) -> Keys | None:
    """The keys of another point's tensors; ``None`` if it has other inputs, or cannot be planned, which is its own matter."""
    given = {item.reference: item for item in inputs}
    try:
        drafts = _Builder(recipe, [given[reference] for reference in recipe.references()], None).drafts()
    except (KeyError, RecipeError):
        return None
    return {draft.name: tensor_key(draft) for draft in drafts}


class _Builder:
    def __init__(self, recipe: Recipe, inputs: Sequence[PlanInput], figures: Sequence[LayerFigure] | None) -> None:
        self.recipe = recipe
        self.method, warnings = check_alone(recipe)
        self.decisions = Decisions()
        given, inputs = inputs, prepared(recipe, inputs)
        donor = Resolver(recipe, self.method, inputs).donor
        inputs = grouped_alike(spelled_alike(inputs, donor, self.decisions), donor, self.decisions)
        self.assembly: Assembly = assemble(recipe, self.method, inputs, figures)
        self.inputs = inputs = laid_by_layer(recipe, inputs, self.assembly)
        self.sources = Inputs(inputs)
        self.taken: set[tuple[int, str]] = set()
        self.aside: dict[tuple[int, str], str] = {}
        self.warnings = [*warnings, *notes(given, inputs)]
        why = "not in all models" if recipe.modules is None else "not named"
        self.warnings += [
            f"module {part.name} is {why}, so it is that of {inputs[self.assembly.donor].reference}, unchanged"
            for part in self.assembly.parts
            if part.carried
        ]
        if not self.method.has_base:
            self.warnings += [
                f"{key}: {model} has no effect, since {self.method.name} has no base"
                for key, model in recipe.slice_bases()
            ]
        self.donor = self.assembly.donor
        self.warnings += differences(recipe, inputs, self.assembly.merged, self.donor)
        self.vocabulary = plan_vocabulary(recipe, inputs, self.donor)
        self.layers = InputLayers(recipe, inputs, self.assembly)
        self.missing = Missing(recipe, inputs, self.donor, self.decisions)
        self.heads = TiedHeads(inputs, self.donor, self.decisions)
        self.whole_numbers = WholeNumbers(recipe, inputs, self.decisions)
        self.out_dtype = self._out_dtype()

    # -- the whole ---------------------------------------------------------------------------------------------------

    def drafts(self) -> Sequence[OutputTensor]:
        made = [(part.carried, draft) for part in self.assembly.parts for draft in self._part(part)]
        merged = {draft.name for carried, draft in made if not carried}
        return self.heads.joined([draft for carried, draft in made if not (carried and draft.name in merged)])

    def plan(self, shard_size: int, together: Mapping[str, int]) -> Plan:
        shards, tensors = self._placed(self.drafts(), shard_size, together)
        donor = self.inputs[self.donor].reference
        config, relabelled = with_architecture(self.recipe, self.vocabulary.config(self._config(tensors)), donor)
        self.warnings += relabelled
        carried = self.vocabulary.carried(self.sources.carried(self.vocabulary.donor))
        files = {*(file.file for file in carried), *(file.file for file in self.vocabulary.written)}
        used = self.taken | {(i.model, i.header.name) for tensor in tensors for i in tensor.files()}
        made = Plan(
            recipe=self.recipe.name,
            method=self.method.name,
            models=self.sources.models,
            tensors=tensors,
            shards=shards,
            config=config,
            carried=carried,
            donor=self.donor,
            layers=layer_spans(self.assembly.slices),
            dropped=left_out(
                self.recipe, self.method, self.assembly, self.inputs, used, self.sources.unused(tensors) | self.aside
            ),
            warnings=tuple(dict.fromkeys([*self.warnings, *self.decisions.warnings, *self.vocabulary.warnings])),
            mergekit_config=self._mergekit_config(),
            removed_layers=tuple(
                {**asdict(f), "value": _finite(f.value), "margin": _finite(f.margin)} for f in self.assembly.removed
            ),
            key="",
            vocabulary=self.vocabulary.planned,
            written=self.vocabulary.written,
            decisions=tuple(self.decisions),
            left_files=self.sources.left(self.vocabulary.donor, files),
        )
        return replace(made, key=plan_key(made))

    def fail(self, key: str, message: str) -> PlanError:
        return plan_error(self.recipe, key, message)

    def _mergekit_config(self) -> str:
        locations = {
            str(i.reference): i.checkpoint.location + (f"+{i.reference.lora}" if i.reference.lora else "")
            for i in self.inputs
            if i.is_variant
        }
        config = to_mergekit(self.assembly.recipe, self.assembly.expanded, locations)
        stages = [item.folded.mergekit_config for item in self.inputs if item.folded is not None]
        return with_stages(config, self.recipe.name, stages) if stages or not self.recipe.materialize else config

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _out_dtype(self) -> str | None:
        name = self.recipe.out_dtype or self.recipe.dtype
        if name is None:
            return None
        return CODES[name.removeprefix("torch.")]

    # -- one part of the model -----------------------------------------------------------------------------------------

    def _part(self, part: ResolvedPart) -> Iterator[OutputTensor]:
        yield from self._outside(part, after=False)
        yield from self._in_layers(part)
        yield from self._outside(part, after=True)

    def _in_layers(self, part: ResolvedPart) -> Iterator[OutputTensor]:
        main = part is self.assembly.parts[0]
        stacks = self.layers.stacks(self.donor, part)
        if part.layers and not stacks:
            raise self.fail(
                part.slices[0].key,
                f"{self.inputs[self.donor].reference}, which gives the config, has no {part.name} layers",
            )
        position = 0
        for piece in part.slices:
            for i in range(piece.layers):
                t = (i / (piece.layers - 1) if piece.layers > 1 else 1.0) if part.varies else 0.0
                sources = [s.start + i for s in piece.sources]
                for number, stack in enumerate(stacks):
                    for suffix, headers, read in self.layers.of(part, piece, number, i):
                        name = stack.join(position, suffix)
                        yield from self._drafts(
                            name, part, piece, headers, sources, t, position if main else None, read=read
                        )
                position += 1

    def _outside(self, part: ResolvedPart, *, after: bool) -> Iterator[OutputTensor]:
        """Embeddings and the like from the first slice's sources, norms and heads from the last slice's."""
        piece = part.slices[-1 if after else 0]
        checkpoints = [self.inputs[s.model].checkpoint for s in piece.sources]
        for tensor in outside_tensors(checkpoints, part.name, layers=part.layers, after=after):
            nowhere = [None] * len(tensor.headers)
            read = [tensor.name] * len(tensor.headers)
            yield from self._drafts(
                tensor.name, part, piece, tensor.headers, nowhere, 0.0, None, read=read, beyond=tensor.beyond
            )

    # -- one tensor ----------------------------------------------------------------------------------------------------

    def _drafts(
        self,
        name: str,
        part: ResolvedPart,
        piece: ResolvedSlice,
        found: Sequence[TensorHeader | None],
        layers: Sequence[int | None],
        t: float,
        layer: int | None,
        *,
        read: Sequence[str],
        beyond: bool = False,
    ) -> Iterator[OutputTensor]:
        """One output tensor without its place and key; none if it is dropped."""
        headers = [header for header in found if header is not None]
        self._check_elements(piece, found)
        if len(headers) < len(found):
            only = self.missing.source(name, read, found, piece, beyond=beyond)
            if only is None:
                self._set_aside(piece, found, "other models lack it")
                return
        else:
            resized = [self.vocabulary.resized(s.model, h) for s, h in zip(piece.sources, headers, strict=True)]
            self._check_shapes(name, piece, resized)
            is_copy = part.carried or self.method.name == "passthrough"
            only = None if is_copy else self.whole_numbers.source(name, headers, piece)
        if only is not None:
            header = found[only]
            assert header is not None
            self._set_aside(piece, found, "carried from another model")
            piece, headers, layers = replace(piece, sources=(piece.sources[only],), base=None), [header], [layers[only]]
        yield self._draft(name, part, piece, headers, layers, t, layer, carried=part.carried or only is not None)

    def _set_aside(self, piece: ResolvedSlice, found: Sequence[TensorHeader | None], why: str) -> None:
        """Keep why tensors of a slice's sources are not used, as far as they are not."""
        for source, header in zip(piece.sources, found, strict=True):
            if header is not None:
                self.aside[source.model, header.name] = why

    def _draft(
        self,
        name: str,
        part: ResolvedPart,
        piece: ResolvedSlice,
        headers: Sequence[TensorHeader],
        layers: Sequence[int | None],
        t: float,
        layer: int | None,
        *,
        carried: bool,
    ) -> OutputTensor:
        """One output tensor without its place and key."""
        method, sources, base = self.method, piece.sources, piece.base
        if carried:
            method, base = find_method("passthrough"), None
        outer = () if method is not self.method else (piece.parameters, *part.outer)
        inputs = []
        for place, (source, header) in enumerate(zip(sources, headers, strict=True)):
            item = self.inputs[source.model]
            own = [] if place == base else [p for p in method.parameters if p.per_model]
            scopes = (source.parameters, *outer) if outer else ()
            parameters = resolve_parameters(own, scopes, header.name, t, recipe=self.recipe, model=str(item.reference))
            stored = self.sources.tensor(source.model, header, layers[place], parameters)
            inputs.append(self.vocabulary.made(source.model, stored, name, header, self._row_source))
            if header.name not in item.made.aside:
                self.taken.add((source.model, header.name))
        per_merge = [p for p in method.parameters if not p.per_model]
        whole = resolve_parameters(per_merge, outer, name, t, recipe=self.recipe)
        check_weights(method, (item.parameters for item in inputs), whole, name, recipe=self.recipe)
        if method.random:
            whole["seed"] = self.recipe.seed
        draft = OutputTensor(
            name=name,
            dtype=self._dtype(name, method, piece, headers),
            shape=inputs[0].header.shape,
            shard=-1,
            begin=0,
            end=0,
            method=method.name,
            parameters=whole,
            inputs=tuple(inputs),
            base=base,
            layer=layer,
            key="",
        )
        self._check_folded(draft, piece)
        return lifted(draft)

    def _check_folded(self, draft: OutputTensor, piece: ResolvedSlice) -> None:
        folded = [item.reference for item in self.inputs if item.folded is not None]
        if folded and (count := sum(1 for _ in draft.files())) > MAX_FOLDED:
            message = f"tensor {draft.name} would be made of {count} tensors, by every way through recipes that are not"
            message += f" stored (materialize: false), and at most {MAX_FOLDED} are; store {folded[0]}"
            raise self.fail(piece.key, message)

    def _row_source(self, model: int, header: TensorHeader) -> TensorInput:
        return self.sources.tensor(model, header, None, {})

    def _dtype(self, name: str, method: Method, piece: ResolvedSlice, headers: Sequence[TensorHeader]) -> str:
        found = [header.dtype for header in headers]
        if all(dtype in COMPUTABLE for dtype in found):
            own = found[(piece.base or 0) if len(found) > 1 else 0]
            kept = own == "F32" and stays_float32(
                name, self.inputs[self.donor].checkpoint.config, self.out_dtype or own
            )
            return own if kept else self.out_dtype or own
        if len(headers) == 1 and method.name == "passthrough":
            return found[0]
        listing = ", ".join(
            f"{self.inputs[s.model].reference}: {dtype}" for s, dtype in zip(piece.sources, found, strict=True)
        )
        raise self.fail(
            piece.key, f"tensor {name} cannot be merged in dtype {listing}; only passthrough carries it along"
        )

    def _check_shapes(self, name: str, piece: ResolvedSlice, headers: Sequence[TensorHeader]) -> None:
        if message := unlike_shapes(name, [self.inputs[source.model] for source in piece.sources], headers):
            raise self.fail(piece.key, message)

    def _check_elements(self, piece: ResolvedSlice, found: Sequence[TensorHeader | None]) -> None:
        for source, header in zip(piece.sources, found, strict=True):
            if header is not None and (message := without_elements(self.inputs[source.model], header)):
                raise self.fail(piece.key, message)

    def _placed(
        self, drafts: Sequence[OutputTensor], shard_size: int, together: Mapping[str, int]
    ) -> tuple[tuple[Shard, ...], tuple[OutputTensor, ...]]:
        """The shards, and the tensors in file order with their places and keys."""
        twice = [name for name, count in Counter(draft.name for draft in drafts).items() if count > 1]
        if twice:
            raise self.fail(
                self._body_key(), f"tensor {twice[0]} would be written twice; merge models of one architecture"
            )
        shards, ranges = lay_out(
            [(d.name, d.dtype, d.shape) for d in drafts],
            shard_size,
            weights_stem(self.inputs[self.donor].checkpoint.weight_files),
            together,
        )
        tensors = [
            replace(draft, shard=where.shard, begin=where.begin, end=where.end, key=tensor_key(draft))
            for draft in drafts
            for where in [ranges[draft.name]]
        ]
        return shards, tuple(sorted(tensors, key=lambda tensor: (tensor.shard, tensor.begin)))

    # -- what surrounds the tensors --------------------------------------------------------------------------------------

    def _config(self, tensors: Sequence[OutputTensor]) -> dict[str, Any]:
        donor = self.inputs[self.donor].checkpoint
        dtypes: dict[str, int] = {}
        for tensor in tensors:
            if tensor.dtype in COMPUTABLE:
                dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.nbytes
        dtype = TORCH_NAMES[max(dtypes, key=lambda code: dtypes[code])] if dtypes else None
        stacks = [
            (stack, self._origins(part))
            for part in self.assembly.parts
            for stack in self.layers.stacks(self.donor, part)
        ]
        main, layers = stacks[0] if stacks else (None, [])
        tied = False if self.heads.torn else tied_output(donor, {tensor.name for tensor in tensors})
        given = without_predictions(donor.config) if self.missing.has_dropped_predictions else donor.config
        try:
            vocabulary = self.vocabulary.rows
            return rewrite_config(given, main, layers, dtype=dtype, tied=tied, vocab_size=vocabulary, others=stacks[1:])
        except CheckpointError as error:
            raise self.fail(self._body_key(), f"{self.inputs[self.donor].reference}: {error}") from None

    def _origins(self, part: ResolvedPart) -> list[LayerOrigin]:
        """Config and number of the layer whose role each layer of a part has: the base's, or the first source's."""
        return [
            (self.inputs[source.model].checkpoint.config, source.start + i)
            for piece in part.slices
            for source in [piece.sources[piece.base or 0]]
            for i in range(piece.layers)
        ]

    def _body_key(self) -> str:
        """The key of the recipe that says what is merged."""
        return next(key for key in BODIES if getattr(self.recipe, key) is not None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
