"""The plan: a recipe resolved against the headers of its inputs, as pure data.

A plan holds everything that the engine needs and nothing that it has to decide: which bytes of which files go through
which method into which bytes of which output shard. It can be printed, stored as JSON and compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from merge_assets.checkpoint import TensorHeader
from merge_assets.plan.methods import methods

NUMERICS_VERSION = "1"
"""Changes whenever the engine would write other bytes for the same plan; part of every tensor key."""


@dataclass(frozen=True)
class PlannedModel:
    """One input checkpoint.

    Attributes:
        reference: as the recipe writes it.
        location: directory that holds the files.
        fingerprint: content digest, if it was known when the plan was made.
    """

    reference: str
    location: str
    fingerprint: str | None


@dataclass(frozen=True)
class TensorInput:
    """One input tensor of an expression.

    Attributes:
        model: index into :attr:`Plan.models`.
        header: name, dtype, shape and byte range.
        layer: source layer, ``None`` outside the layers.
        parameters: resolved per-model parameters.
        digest: digest of the tensor's bytes, or an identity by place if that is not known.
    """

    model: int
    header: TensorHeader
    layer: int | None
    parameters: Mapping[str, float | bool]
    digest: str


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
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    begin: int
    end: int
    method: str
    parameters: Mapping[str, float | bool]
    inputs: tuple[TensorInput, ...]
    base: int | None
    layer: int | None
    key: str

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_copy(self) -> bool:
        """True if the output bytes are the input bytes, so that nothing is computed."""
        return (
            self.method == "passthrough"
            and self.inputs[0].header.dtype == self.dtype
            and self.inputs[0].parameters.get("scale", 1) == 1
        )


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
class CarriedFile:
    """A file copied beside the weights: tokenizer, chat template, generation config."""

    model: int
    file: str


@dataclass(frozen=True)
class Plan:
    """A recipe resolved against headers. See the module docstring.

    Attributes:
        recipe: name of the recipe.
        method: merge method.
        models: input checkpoints; others refer to them by index.
        tensors: outputs in file order.
        shards: output files.
        config: ``config.json`` of the variant.
        carried: files copied from the donor of config and tokenizer.
        donor: index of that donor.
        layers: the layer map.
        dropped: input tensors that are not used.
        warnings: things a person should know that are not errors.
        mergekit_config: the resolved recipe as plain mergekit YAML.
        removed_layers: for ``prune_layers``, the layers removed, with the figures that chose them.
        key: digest of everything that determines the variant's files.
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

    @property
    def layer_count(self) -> int:
        return self.layers[-1].end if self.layers else 0

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
        known = methods()
        return sum(
            (1 if tensor.is_copy else 1 + known[tensor.method].passes) * sum(i.header.nbytes for i in tensor.inputs)
            for tensor in self.tensors
        )

    def to_json(self) -> str:
        """Strict JSON, one object; the same plan always gives the same text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def digest_of(value: object) -> str:
    """SHA-256 hex digest of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
