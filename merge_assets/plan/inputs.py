"""The inputs of a plan as its tensors refer to them: checkpoints in files, recipes folded into the plan, and adapters.

A folded recipe has a plan of its own instead of files. A tensor of it is an expression inside the consumer's expression,
nothing of it is rounded, and its models become models of the consumer's plan, each reference once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from merge_assets.checkpoint import TensorHeader, carried_files
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.beside import CarriedFile, left_behind
from merge_assets.plan.made import StoredTensor, TensorOrigin
from merge_assets.plan.model import (
    NUMERICS_VERSION,
    FoldedRecipe,
    LayerSpan,
    OutputTensor,
    Plan,
    PlannedModel,
    TensorInput,
    digest_of,
)

Parameters = Mapping[str, float | bool | str]
TensorId = tuple[int, str]
"""A tensor of an input: index of the model, name of the tensor."""

MAX_FOLDED = 1024
"""Tensors in files that one tensor may be made of by way of recipes that are not stored. Each counts as often as ways lead to
it, since each is listed, read and computed as often."""

NESTED_DTYPE = "F32"
"""What a nested expression counts as: it is at least as exact, and is never stored."""


class Inputs:
    """The inputs of one plan.

    Attributes:
        models: one for every input, in their order, then the models that only folded recipes have.
    """

    models: tuple[PlannedModel, ...]

    def __init__(self, inputs: Sequence[PlanInput]) -> None:
        self._inputs = inputs
        self._tensors = {
            number: {tensor.name: tensor for tensor in item.folded.tensors}
            for number, item in enumerate(inputs)
            if item.folded is not None
        }
        numbers = {str(item.reference): number for number, item in enumerate(inputs)}
        # For every folded recipe, its models' numbers in this plan.
        self._moved = {
            number: tuple(numbers.setdefault(model.reference, len(numbers)) for model in plan.models)
            for number, plan in self._folded()
        }
        # For every input with an adapter, the adapter's number.
        self._adapters = {
            number: numbers.setdefault(str(item.adapter.reference), len(numbers))
            for number, item in enumerate(inputs)
            if item.adapter is not None
        }
        self.models = self._planned_models(len(numbers))

    def tensor(self, model: int, header: TensorHeader, layer: int | None, parameters: Parameters) -> TensorInput:
        """One tensor of an input as an input of an expression.

        Args:
            model: index of the input.
            header: of the tensor; of the one that would be stored if the input is a folded recipe.
            layer: layer of the input.
            parameters: of the expression for this input.
        """
        origin = self._inputs[model].made.origins.get(header.name)
        if origin is None:
            return self._own(model, header, layer, parameters)
        return self._made(model, header.name, origin, layer, parameters)

    def _made(
        self, model: int, name: str, origin: TensorOrigin, layer: int | None, parameters: Parameters
    ) -> TensorInput:
        """A tensor of an input that lies elsewhere than under its name in the input's files, or is computed."""
        if isinstance(origin, StoredTensor):
            if not origin.of_adapter:
                return self._own(model, origin.header, layer, parameters)
            adapter = self._inputs[model].adapter
            assert adapter is not None
            return TensorInput(
                self._adapters[model], origin.header, layer, parameters, _identity(adapter, origin.header)
            )
        each = origin.of_parts or ({},) * len(origin.parts)
        parts = (self._made(model, name, part, layer, own) for part, own in zip(origin.parts, each, strict=True))
        nested = OutputTensor(
            name=name,
            dtype=NESTED_DTYPE,
            shape=origin.shape,
            shard=-1,
            begin=0,
            end=0,
            method=origin.method,
            parameters=origin.parameters,
            inputs=tuple(parts),
            base=None,
            layer=layer,
            key="",
            rows=origin.rows,
        )
        return _wrapped(model, replace(nested, key=tensor_key(nested)), layer, parameters)

    def _own(self, model: int, header: TensorHeader, layer: int | None, parameters: Parameters) -> TensorInput:
        """A tensor of the input's files, or of the folded recipe."""
        if model not in self._tensors:
            return TensorInput(model, header, layer, parameters, _identity(self._inputs[model], header))
        tensor = _moved(self._tensors[model][header.name], self._moved[model])
        if tensor.is_plain:
            # Nothing is rounded inside an expression, so a tensor passed through is the tensor that it was.
            return replace(tensor.inputs[0], parameters=parameters)
        return as_input(model, tensor, layer, parameters)

    def carried(self, model: int) -> tuple[CarriedFile, ...]:
        """The files that a variant takes over from an input; those of a folded recipe lie with one of its inputs."""
        item = self._inputs[model]
        if item.folded is not None:
            places = self._moved[model]
            return tuple(replace(carried, model=places[carried.model]) for carried in item.folded.carried)
        digests = item.file_digests or {}
        files = item.checkpoint.files
        return tuple(CarriedFile(model, n, files[n], digests.get(n)) for n in carried_files(item.checkpoint))

    def left(self, model: int, kept: Collection[str]) -> tuple[str, ...]:
        """The files that a variant does not take over from an input."""
        item = self._inputs[model]
        return left_behind(item.checkpoint, kept) if item.folded is None else item.folded.left_files

    def unused(self, tensors: Sequence[OutputTensor]) -> dict[TensorId, str]:
        """Tensors inside folded recipes that lie in files and that no output needs, and why."""
        used = {(item.model, item.header.name) for tensor in tensors for item in tensor.files()}
        reasons: dict[TensorId, str] = {}
        for number, plan in self._folded():
            places = self._moved[number]
            for dropped in plan.dropped:
                reasons[places[dropped.model], dropped.tensor] = dropped.reason
            for tensor in plan.tensors:
                for item in tensor.files():
                    what = f"only in tensors of {self._inputs[number].reference} that are not used"
                    reasons.setdefault((places[item.model], item.header.name), what)
        for number, entry in enumerate(self._inputs):
            reasons.update({(number, name): reason for name, reason in entry.made.aside.items()})
            if entry.adapter is not None:
                names = entry.adapter.checkpoint.tensors
                reasons.update(dict.fromkeys(((self._adapters[number], n) for n in names), "adapts what is not used"))
        return {place: reason for place, reason in reasons.items() if place not in used}

    def _folded(self) -> Iterator[tuple[int, Plan]]:
        for number, item in enumerate(self._inputs):
            if item.folded is not None:
                yield number, item.folded

    def _planned_models(self, count: int) -> tuple[PlannedModel, ...]:
        models: dict[int, PlannedModel] = {}
        for number, item in enumerate(self._inputs):
            models[number] = PlannedModel(str(item.reference), item.checkpoint.location, item.fingerprint)
        for number, plan in self._folded():
            places = self._moved[number]
            models[number] = replace(
                models[number], folded=FoldedRecipe(plan.method, _moved_spans(plan.layers, places))
            )
            for place, model in zip(places, plan.models, strict=True):
                deeper = model.folded and replace(model.folded, layers=_moved_spans(model.folded.layers, places))
                models.setdefault(place, replace(model, folded=deeper))
        for number, place in self._adapters.items():
            adapter = self._inputs[number].adapter
            assert adapter is not None
            planned = PlannedModel(str(adapter.reference), adapter.checkpoint.location, adapter.fingerprint)
            models.setdefault(place, planned)
        return tuple(models[number] for number in range(count))


def _wrapped(model: int, nested: OutputTensor, layer: int | None, parameters: Parameters) -> TensorInput:
    """An expression as an input."""
    empty = TensorHeader(nested.name, NESTED_DTYPE, nested.shape, file="", begin=0, end=0)
    return TensorInput(model, empty, layer, parameters, nested.key, nested)


def as_input(model: int, tensor: OutputTensor, layer: int | None, parameters: Parameters) -> TensorInput:
    """An expression as an input, before it is rounded.

    Args:
        model: index of the input that it counts as.
        tensor: the expression.
        layer: of the input.
        parameters: of the consumer's expression for this input.
    """
    nested = replace(tensor, dtype=NESTED_DTYPE, shard=-1, begin=0, end=0)
    return _wrapped(model, replace(nested, key=tensor_key(nested)), layer, parameters)


def lifted(tensor: OutputTensor) -> OutputTensor:
    """The expression without a passthrough around it, so that it is computed as it would be on its own.

    Random masks go by the name of the tensor in the folded recipe, so such an expression keeps its own name; what makes an
    input has inputs of other shapes.
    """
    inner = tensor.inputs[0].nested
    if not tensor.is_plain or inner is None:
        return tensor
    if inner.declaration is None or inner.declaration.random:
        return tensor
    return replace(tensor, method=inner.method, parameters=inner.parameters, inputs=inner.inputs, base=inner.base)


def tensor_key(tensor: OutputTensor) -> str:
    """Digest of everything that determines a tensor's elements; its own ``key`` and place are not looked at."""
    return digest_of(
        {
            "numerics": NUMERICS_VERSION,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "method": [tensor.method, tensor.method_version],
            "masks of": tensor.name if tensor.declaration is not None and tensor.declaration.random else None,
            "parameters": dict(tensor.parameters),
            "base": tensor.base,
            "inputs": [(i.digest, i.header.dtype, dict(i.parameters)) for i in tensor.inputs],
            **({"rows": tensor.rows} if tensor.rows is not None else {}),
        }
    )


def plan_key(plan: Plan) -> str:
    """Digest of everything that determines a variant's files; the plan's own ``key`` is not looked at."""
    written = [(file.file, file.digest) for file in plan.written]
    return digest_of(
        {
            "tensors": [(tensor.name, tensor.key) for tensor in plan.tensors],
            "config": plan.config,
            "carried": [(c.file, c.digest or plan.models[c.model].location) for c in plan.carried],
            "shards": [(shard.file, shard.header) for shard in plan.shards],
            **({"written": written} if written else {}),
        }
    )


def _identity(item: PlanInput, header: TensorHeader) -> str:
    if item.tensor_digests is not None:
        return item.tensor_digests[header.name]
    return f"{item.checkpoint.location}/{header.file}:{header.begin}-{header.end}"


def is_digest(identity: str) -> bool:
    """Whether a tensor's identity is that of its bytes, not of its place or of how they will be made."""
    return not identity.startswith("key:") and "/" not in identity


def _moved(tensor: OutputTensor, places: Sequence[int]) -> OutputTensor:
    """The same expression with other numbers of its models."""
    inputs = tuple(
        replace(item, model=places[item.model], nested=item.nested and _moved(item.nested, places))
        for item in tensor.inputs
    )
    return replace(tensor, inputs=inputs)


def _moved_spans(spans: Sequence[LayerSpan], places: Sequence[int]) -> tuple[LayerSpan, ...]:
    return tuple(
        replace(span, sources=tuple(replace(source, model=places[source.model]) for source in span.sources))
        for span in spans
    )
