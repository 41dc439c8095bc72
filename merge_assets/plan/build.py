"""Build a plan: every check that headers allow, then every output tensor with its expression and its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from merge_assets.checkpoint import CODES, TORCH_NAMES, LayerStack, TensorHeader, rewrite_config
from merge_assets.errors import PlanError
from merge_assets.plan.assemble import Assembly, PlanInput, ResolvedSlice, assemble
from merge_assets.plan.inputs import Inputs, lifted, tensor_key
from merge_assets.plan.layout import lay_out
from merge_assets.plan.methods import Method, find_method
from merge_assets.plan.model import (
    CarriedFile,
    DroppedTensor,
    LayerSpan,
    OutputTensor,
    Plan,
    Shard,
    SourceSpan,
    digest_of,
)
from merge_assets.plan.outside import OutsideTensor, outside_tensors, tied_output
from merge_assets.plan.parameters import check_names, resolve_parameters
from merge_assets.plan.problems import plan_error
from merge_assets.plan.vocabulary import tokenizer_donor
from merge_assets.recipe import LayerFigure, Recipe, to_mergekit, with_stages

COMPUTABLE = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes that take part in arithmetic; others are only copied."""


def build_plan(
    recipe: Recipe,
    inputs: Sequence[PlanInput],
    *,
    shard_size: int = 5_000_000_000,
    figures: Sequence[LayerFigure] | None = None,
) -> Plan:
    """Resolve a recipe against the headers of its inputs.

    Args:
        recipe: the recipe.
        inputs: one entry for every model of ``recipe.references()``.
        shard_size: largest size of an output shard, bytes.
        figures: per-layer figures for ``prune_layers``, if the analysis is there.

    Raises:
        PlanError: for everything that is wrong with the recipe and can be seen without reading weights.
    """
    return _Builder(recipe, inputs, shard_size, figures).plan()


class _Builder:
    def __init__(
        self, recipe: Recipe, inputs: Sequence[PlanInput], shard_size: int, figures: Sequence[LayerFigure] | None
    ) -> None:
        self.recipe = recipe
        self.inputs = inputs
        self.sources = Inputs(inputs)
        self.taken: set[tuple[int, str]] = set()
        self.shard_size = shard_size
        try:
            self.method: Method = find_method(recipe.merge_method)
        except PlanError as error:
            raise plan_error(recipe, "merge_method", error.message) from None
        if self.method.makes_input:
            raise plan_error(
                recipe, "merge_method", f"{recipe.merge_method} is not a merge method; docs/methods.md lists them"
            )
        self.warnings = check_names(recipe, self.method)
        self.assembly: Assembly = assemble(recipe, self.method, inputs, figures)
        self.per_model = [p for p in self.method.parameters if p.per_model]
        self.whole = [p for p in self.method.parameters if not p.per_model]
        self.donor = self._donor()
        self.out_dtype = self._out_dtype()

    # -- the whole ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        for number in range(len(self.inputs)):
            self._refuse_quantised(number)
        shards, tensors = self._placed([*self._outside("pre"), *self._layers(), *self._outside("post")])
        config = self._config(tensors)
        carried = self.sources.carried(tokenizer_donor(self.recipe, self.inputs, self.donor))
        return Plan(
            recipe=self.recipe.name,
            method=self.method.name,
            models=self.sources.models,
            tensors=tensors,
            shards=shards,
            config=config,
            carried=carried,
            donor=self.donor,
            layers=self._layer_map(),
            dropped=self._dropped(tensors),
            warnings=tuple(dict.fromkeys(self.warnings)),
            mergekit_config=self._mergekit_config(),
            removed_layers=tuple(
                {**asdict(f), "value": _finite(f.value), "margin": _finite(f.margin)} for f in self.assembly.removed
            ),
            key=self._key(tensors, config, carried, [s.header for s in shards]),
        )

    def fail(self, key: str, message: str) -> PlanError:
        return plan_error(self.recipe, key, message)

    def _key(
        self,
        tensors: Sequence[OutputTensor],
        config: Mapping[str, Any],
        carried: Sequence[CarriedFile],
        headers: Sequence[str],
    ) -> str:
        models = self.sources.models
        return digest_of(
            {
                "tensors": [(t.name, t.key) for t in tensors],
                "config": config,
                "carried": [(c.file, c.digest or models[c.model].location) for c in carried],
                "headers": headers,
            }
        )

    def _mergekit_config(self) -> str:
        locations = {str(i.reference): i.checkpoint.location for i in self.inputs if i.is_variant}
        config = to_mergekit(self.recipe, self.assembly.expanded, locations)
        stages = [item.folded.mergekit_config for item in self.inputs if item.folded is not None]
        return with_stages(config, self.recipe.name, stages) if stages or not self.recipe.materialize else config

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _donor(self) -> int:
        """The model whose config and tokenizer the variant takes: the base model, or else the first listed."""
        base = self.recipe.base_model
        if base is not None:
            return next(n for n, item in enumerate(self.inputs) if item.reference == base)
        return self.assembly.slices[0].sources[0].model

    def _out_dtype(self) -> str | None:
        name = self.recipe.out_dtype or self.recipe.dtype
        if name is None:
            return None
        return CODES[name.removeprefix("torch.")]

    def _refuse_quantised(self, number: int) -> None:
        item = self.inputs[number]
        quantised = item.checkpoint.config.get("quantization_config")
        if isinstance(quantised, Mapping):
            kind = quantised.get("quant_method", "unknown")
            raise self.fail(
                "models", f"{item.reference} is quantised ({kind}); merging needs the unquantised checkpoint"
            )

    def _stack(self, model: int) -> LayerStack | None:
        stacks = self.inputs[model].checkpoint.stacks
        return stacks[0] if stacks else None

    # -- tensors in the layers -----------------------------------------------------------------------------------------

    def _layers(self) -> list[OutputTensor]:
        drafts: list[OutputTensor] = []
        donor = self._stack(self.donor)
        position = 0
        for piece in self.assembly.slices:
            for i in range(piece.layers):
                t = i / (piece.layers - 1) if piece.layers > 1 else 1.0
                assert donor is not None
                for suffix in self._suffixes(piece, i):
                    headers = [self._layer_header(piece, place, i, suffix) for place in range(len(piece.sources))]
                    sources = [s.start + i for s in piece.sources]
                    drafts.append(
                        self._draft(f"{donor.prefix}{position}.{suffix}", piece, headers, sources, t, position)
                    )
                position += 1
        return drafts

    def _suffixes(self, piece: ResolvedSlice, i: int) -> list[str]:
        """Tensor names within one layer: those of the first source in its file order, then those only others have."""
        names: dict[str, None] = {}
        for source in piece.sources:
            stack = self._stack(source.model)
            assert stack is not None
            start = f"{stack.prefix}{source.start + i}."
            for name in self.inputs[source.model].checkpoint.tensors:
                if name.startswith(start):
                    names[name.removeprefix(start)] = None
        return list(names)

    def _layer_header(self, piece: ResolvedSlice, place: int, i: int, suffix: str) -> TensorHeader:
        source = piece.sources[place]
        stack = self._stack(source.model)
        assert stack is not None
        name = f"{stack.prefix}{source.start + i}.{suffix}"
        header = self.inputs[source.model].checkpoint.tensors.get(name)
        if header is None:
            others = ", ".join(str(self.inputs[s.model].reference) for s in piece.sources if s is not source)
            raise self.fail(
                f"{piece.key}", f"{self.inputs[source.model].reference} has no tensor {name}, which {others} has"
            )
        return header

    # -- tensors outside the layers ------------------------------------------------------------------------------------

    def _outside(self, part: str) -> list[OutputTensor]:
        """Embeddings and the like from the first slice's sources, norms and heads from the last slice's."""
        piece = self.assembly.slices[0 if part == "pre" else -1]
        checkpoints = [self.inputs[s.model].checkpoint for s in piece.sources]
        found: list[OutsideTensor] = outside_tensors(checkpoints, part)
        drafts = []
        for tensor in found:
            for place, header in enumerate(tensor.headers):
                if header is None:
                    lacking = self.inputs[piece.sources[place].model].reference
                    raise self.fail(
                        piece.key,
                        f"{lacking} has no tensor {tensor.name}, which another source of this slice has; "
                        "list only models with the same tensors",
                    )
            headers = [header for header in tensor.headers if header is not None]
            drafts.append(self._draft(tensor.name, piece, headers, [None] * len(headers), 0.0, None))
        return drafts

    # -- one tensor ----------------------------------------------------------------------------------------------------

    def _draft(
        self,
        name: str,
        piece: ResolvedSlice,
        headers: Sequence[TensorHeader],
        layers: Sequence[int | None],
        t: float,
        layer: int | None,
    ) -> OutputTensor:
        """One output tensor without its place and key."""
        self._check_shapes(name, piece, headers)
        outer = (piece.parameters, *self.assembly.outer)
        inputs = []
        for place, (source, header) in enumerate(zip(piece.sources, headers, strict=True)):
            item = self.inputs[source.model]
            own = [] if place == piece.base else self.per_model
            parameters = resolve_parameters(
                own, (source.parameters, *outer), header.name, t, recipe=self.recipe, model=str(item.reference)
            )
            inputs.append(self.sources.tensor(source.model, header, layers[place], parameters))
            self.taken.add((source.model, header.name))
        whole = resolve_parameters(self.whole, outer, name, t, recipe=self.recipe)
        if self.method.random:
            whole["seed"] = self.recipe.seed
        draft = OutputTensor(
            name=name,
            dtype=self._dtype(name, piece, headers),
            shape=headers[0].shape,
            shard=-1,
            begin=0,
            end=0,
            method=self.method.name,
            parameters=whole,
            inputs=tuple(inputs),
            base=piece.base,
            layer=layer,
            key="",
        )
        return lifted(draft)

    def _dtype(self, name: str, piece: ResolvedSlice, headers: Sequence[TensorHeader]) -> str:
        found = [header.dtype for header in headers]
        if all(dtype in COMPUTABLE for dtype in found):
            return self.out_dtype or found[piece.base or 0]
        if len(headers) == 1 and self.method.name == "passthrough":
            return found[0]
        listing = ", ".join(
            f"{self.inputs[s.model].reference}: {dtype}" for s, dtype in zip(piece.sources, found, strict=True)
        )
        raise self.fail(
            piece.key, f"tensor {name} cannot be merged in dtype {listing}; only passthrough carries it along"
        )

    def _check_shapes(self, name: str, piece: ResolvedSlice, headers: Sequence[TensorHeader]) -> None:
        if len({header.shape for header in headers}) == 1:
            return
        listing = "; ".join(
            f"{self.inputs[source.model].reference} {list(header.shape)}"
            for source, header in zip(piece.sources, headers, strict=True)
        )
        message = f"shapes differ for tensor {name}: {listing}"
        vocabularies = {self.inputs[s.model].checkpoint.config.get("vocab_size") for s in piece.sources}
        if len(vocabularies) > 1 and len({header.shape[1:] for header in headers}) == 1:
            message += "; the vocabularies differ: set `tokenizer: {source: union}`, or merge models of one vocabulary"
        else:
            message += "; merge models of one architecture and size"
        raise self.fail(piece.key, message)

    def _placed(self, drafts: Sequence[OutputTensor]) -> tuple[tuple[Shard, ...], tuple[OutputTensor, ...]]:
        """The shards, and the tensors in file order with their places and keys."""
        shards, places = lay_out([(d.name, d.dtype, d.shape) for d in drafts], self.shard_size)
        tensors = [
            replace(draft, shard=place.shard, begin=place.begin, end=place.end, key=tensor_key(draft))
            for draft in drafts
            for place in [places[draft.name]]
        ]
        return shards, tuple(sorted(tensors, key=lambda tensor: (tensor.shard, tensor.begin)))

    # -- what surrounds the tensors --------------------------------------------------------------------------------------

    def _config(self, tensors: Sequence[OutputTensor]) -> dict[str, Any]:
        donor = self.inputs[self.donor].checkpoint
        stack = self._stack(self.donor)
        dtypes: dict[str, int] = {}
        for tensor in tensors:
            if tensor.dtype in COMPUTABLE:
                dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.nbytes
        main = max(dtypes, key=lambda code: dtypes[code]) if dtypes else None
        layers = [
            (self.inputs[piece.sources[0].model].checkpoint.config, piece.sources[0].start + i)
            for piece in self.assembly.slices
            for i in range(piece.layers)
        ]
        if stack is None:
            return dict(donor.config)
        if stack.config_key is None and len(layers) != stack.count:
            raise self.fail(
                "slices",
                f"config.json of {self.inputs[self.donor].reference} does not say how many layers there are, "
                f"so a variant with {len(layers)} instead of {stack.count} layers cannot be described",
            )
        tied = tied_output(donor, {tensor.name for tensor in tensors})
        return rewrite_config(donor.config, stack, layers, dtype=TORCH_NAMES[main] if main else None, tied=tied)

    def _layer_map(self) -> tuple[LayerSpan, ...]:
        spans, start = [], 0
        for piece in self.assembly.slices:
            if piece.layers:
                sources = tuple(SourceSpan(s.model, s.start, s.end) for s in piece.sources)
                spans.append(LayerSpan(start, start + piece.layers, sources))
                start += piece.layers
        return tuple(spans)

    def _dropped(self, tensors: Sequence[OutputTensor]) -> tuple[DroppedTensor, ...]:
        used = self.taken | {(i.model, i.header.name) for tensor in tensors for i in tensor.files()}
        reasons = self.sources.unused(tensors)
        for model, item in enumerate(self.inputs):
            stack = self._stack(model)
            merged = any(s.model == model for piece in self.assembly.slices for s in piece.sources)
            for name in item.checkpoint.tensors:
                split = stack.split(name) if stack else None
                if not merged:
                    reason = "donates only config and tokenizer"
                elif split:
                    reason = f"layer {split[0]} is in no slice"
                else:
                    reason = "outside the layers; taken from the sources of the first or last slice"
                reasons.setdefault((model, name), reason)
        dropped = [DroppedTensor(*place, reason) for place, reason in reasons.items() if place not in used]
        return tuple(sorted(dropped, key=lambda tensor: tensor.model))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
