"""The plan: a recipe resolved against the headers of its inputs, as pure data.

A plan holds everything that the engine needs and nothing that it has to decide: which bytes of which files go through
which method into which bytes of which output shard. It can be printed, stored as JSON and compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from merge_assets.checkpoint import TensorHeader
from merge_assets.methods import Method, find_method, is_exact
from merge_assets.plan.beside import CarriedFile, WrittenFile
from merge_assets.plan.decisions import TensorDecision
from merge_assets.plan.made import MAKERS

NUMERICS_VERSION = "3"
"""Changes whenever the engine would write other bytes for the same plan; part of every tensor key."""


@dataclass(frozen=True)
class FoldedRecipe:
    """A recipe that is not stored, inside the plan of a recipe made of it.

    Attributes:
        method: its merge method.
        layers: its own layer map; models are indices into the :attr:`Plan.models` of the plan it is folded into.
    """

    method: str
    layers: tuple[LayerSpan, ...]


@dataclass(frozen=True)
class PlannedModel:
    """One input checkpoint, or a recipe that stands in for one without being stored.

    Attributes:
        reference: as the recipe writes it.
        location: directory that holds the files; no directory for a folded recipe.
        fingerprint: content digest, if it was known when the plan was made.
        folded: what the recipe is, if it is folded in; its own inputs are models of the plan, too.
    """

    reference: str
    location: str
    fingerprint: str | None
    folded: FoldedRecipe | None = None


@dataclass(frozen=True)
class TensorInput:
    """One input tensor of an expression.

    Attributes:
        model: index into :attr:`Plan.models`.
        header: name, dtype, shape and byte range.
        layer: source layer, ``None`` outside the layers.
        parameters: resolved per-model parameters.
        digest: digest of the tensor's bytes, or an identity by place if that is not known; the key of ``nested``.
        nested: the expression whose unrounded result is the input, for a tensor of a folded recipe. Its dtype is
            ``F32``, and it has no shard and no place; the header names it and has no file and no bytes.
    """

    model: int
    header: TensorHeader
    layer: int | None
    parameters: Mapping[str, float | bool | str]
    digest: str
    nested: OutputTensor | None = None


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the variant with the expression that makes it.

    Attributes:
        name: tensor name in the output.
        dtype: safetensors code of the output.
        shape: shape of the output; every input has the same.
        shard: index into :attr:`Plan.shards`.
        begin: first byte in the shard file.
        end: one past the last byte in the shard file.
        method: merge method.
        parameters: resolved whole-method parameters.
        inputs: in recipe order.
        base: index into ``inputs`` of the base, if the method has one.
        layer: output layer, ``None`` outside the layers.
        key: tensor key; equal keys mean equal bytes.
        rows: for rows gathered of other tensors, where they come from; see
            :mod:`merge_assets.plan.vocabulary_rows`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    begin: int
    end: int
    method: str
    parameters: Mapping[str, float | bool | str]
    inputs: tuple[TensorInput, ...]
    base: int | None
    layer: int | None
    key: str
    rows: str | None = None

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_plain(self) -> bool:
        """True if the elements are those of the only input, unscaled."""
        return self.method == "passthrough" and self.inputs[0].parameters.get("scale", 1) == 1

    @property
    def is_copy(self) -> bool:
        """True if the output bytes are the bytes of an input in a file, so that nothing is computed."""
        return self.is_plain and self.inputs[0].nested is None and self.inputs[0].header.dtype == self.dtype

    def files(self) -> Iterator[TensorInput]:
        """The inputs that lie in files, those of nested expressions included; one that is used twice comes twice."""
        for item in self.inputs:
            if item.nested is None:
                yield item
            else:
                yield from item.nested.files()

    @property
    def declaration(self) -> Method | None:
        """The declaration of the merge method; ``None`` of an input that is made (:class:`~merge_assets.plan.made.Maker`)."""
        return None if self.method in MAKERS else find_method(self.method)

    @property
    def method_version(self) -> str:
        """The version of the merge method, or of what makes the input."""
        return (MAKERS[self.method] if self.declaration is None else self.declaration).version

    @property
    def _passes(self) -> int:
        return (MAKERS[self.method] if self.declaration is None else self.declaration).passes

    @property
    def needs_statistics(self) -> bool:
        """Whether whole inputs must have streamed by before the first element of the result is known."""
        nested = (item.nested for item in self.inputs)
        return self._passes > 0 or any(n is not None and n.needs_statistics for n in nested)

    @property
    def makes_inputs(self) -> bool:
        """Whether an input, at any depth, is made out of stored tensors of other shapes."""
        nested = [item.nested for item in self.inputs if item.nested is not None]
        return any(n.declaration is None or n.makes_inputs for n in nested)

    @property
    def needs_cpu(self) -> bool:
        """Whether it is computed on the CPU also where there is a GPU."""
        nested = [item.nested for item in self.inputs if item.nested is not None]
        own = self.declaration is not None and not is_exact(self.declaration)
        return own or self.makes_inputs or any(n.needs_cpu for n in nested)

    def bytes_to_read(self) -> int:
        """Bytes of files read for the tensor: one sweep for the tiles, and one for each statistic pass."""
        return self._bytes_of_a_sweep() + self._bytes_of_statistics()

    def _bytes_of_a_sweep(self) -> int:
        total = 0
        for item in self.inputs:
            found = item.header.nbytes if item.nested is None else item.nested._bytes_of_a_sweep()
            gathered = self.rows is not None  # no more than there are rows here
            total += found * min(self.elements, item.header.numel) // max(1, item.header.numel) if gathered else found
        return total

    def _bytes_of_statistics(self) -> int:
        """A pass of this method sweeps over all files below; statistics of nested expressions are taken once."""
        own = self._passes * self._bytes_of_a_sweep()
        return own + sum(item.nested._bytes_of_statistics() for item in self.inputs if item.nested is not None)


@dataclass(frozen=True)
class Shard:
    """One output file.

    Attributes:
        file: file name.
        header: the JSON text of the safetensors header, ASCII, padded; its length prefix is not included.
        size: file size in bytes.
    """

    file: str
    header: str
    size: int


@dataclass(frozen=True)
class DroppedTensor:
    """A tensor of an input that the variant does not use, and why."""

    model: int
    tensor: str
    reason: str


@dataclass(frozen=True)
class SourceSpan:
    """A run of consecutive layers of one input."""

    model: int
    start: int
    end: int


@dataclass(frozen=True)
class LayerSpan:
    """A run of consecutive output layers and the input layers they are made of (one span per source)."""

    start: int
    end: int
    sources: tuple[SourceSpan, ...]


@dataclass(frozen=True)
class PlannedVocabulary:
    """The vocabulary of a variant whose recipe asks for one.

    Attributes:
        source: ``union``, ``base`` or a model reference, as the recipe says.
        donor: index of the model whose tokens keep their numbers.
        tokens: number of tokens.
        rows: rows of every embedding.
        parts: (model, tokens that come from it), the donor first; tokens that only the recipe lists are in none.
    """

    source: str
    donor: int
    tokens: int
    rows: int
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """A recipe resolved against headers. See the module docstring.

    Attributes:
        recipe: name of the recipe.
        method: merge method.
        models: input checkpoints and folded recipes, those of the recipe first; others refer to them by index.
        tensors: outputs in file order.
        shards: output files.
        config: ``config.json`` of the variant.
        carried: files copied from the donor of config and tokenizer.
        donor: index of that donor.
        layers: the layer map.
        dropped: input tensors that are not used.
        warnings: things a person should know that are not errors.
        mergekit_config: the resolved recipe as plain mergekit YAML; with folded recipes, one document for each.
        removed_layers: for ``prune_layers``, the layers removed, with the figures that chose them.
        key: digest of everything that determines the variant's files.
        vocabulary: what the recipe's tokenizer settings came to, ``None`` if embeddings stay as they are.
        written: files beside the weights that are made, not copied.
        decisions: what was decided for tensors that are not the same in all inputs.
        left_files: files of that donor that the variant does not have.
    """

    recipe: str
    method: str
    models: tuple[PlannedModel, ...]
    tensors: tuple[OutputTensor, ...]
    shards: tuple[Shard, ...]
    config: Mapping[str, Any]
    carried: tuple[CarriedFile, ...]
    donor: int
    layers: tuple[LayerSpan, ...]
    dropped: tuple[DroppedTensor, ...]
    warnings: tuple[str, ...]
    mergekit_config: str
    removed_layers: tuple[Mapping[str, Any], ...]
    key: str
    vocabulary: PlannedVocabulary | None = None
    written: tuple[WrittenFile, ...] = ()
    decisions: tuple[TensorDecision, ...] = ()
    left_files: tuple[str, ...] = ()

    @property
    def layer_count(self) -> int:
        return self.layers[-1].end if self.layers else 0

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """For every model, the last part of its reference, unless two models share it."""
        last = [model.reference.rstrip("/").rpartition("/")[2] for model in self.models]
        counts = Counter(last)
        return tuple(
            name if counts[name] == 1 else model.reference for name, model in zip(last, self.models, strict=True)
        )

    @cached_property
    def methods(self) -> dict[str, str]:
        """The version of every method that makes a tensor, or an input of one, by name."""
        found: dict[str, str] = {}
        waiting = list(self.tensors)
        while waiting:
            tensor = waiting.pop()
            found[tensor.method] = tensor.method_version
            waiting += [item.nested for item in tensor.inputs if item.nested is not None]
        return dict(sorted(found.items()))

    @property
    def parameter_count(self) -> int:
        """Elements of all output tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bytes_to_write(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of input tensors, once for the tiles and once for each statistic pass."""
        return sum(tensor.bytes_to_read() for tensor in self.tensors)

    def to_json(self) -> str:
        """Strict JSON, one object; the same plan always gives the same text. What few plans have is only where set.

        Infinities and NaN of the config, which strict JSON cannot hold, are ``{"__float__": "Infinity"}``, as transformers 5
        writes them.
        """
        fields = asdict(self, dict_factory=_without_empty) | {
            "config": strict_json(self.config),
            "methods": self.methods,
        }
        return json.dumps(fields, indent=1, allow_nan=False)


_RARE = frozenset({"nested", "folded", "rows", "vocabulary", "written", "decisions", "left_files"})


def _without_empty(items: list[tuple[str, Any]]) -> dict[str, Any]:
    present = {key: value for key, value in items if key not in _RARE or value not in (None, ())}
    present.pop("text", None)  # of written files
    return present


def strict_json(value: Any) -> Any:
    """What strict JSON says of a config, which may hold infinities and NaN; see :meth:`Plan.to_json`."""
    if isinstance(value, Mapping):
        return {key: strict_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": json.dumps(value)}
    return value


def digest_of(value: object) -> str:
    """SHA-256 hex digest of the canonical JSON of ``value``; infinities and NaN are bare words in it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
