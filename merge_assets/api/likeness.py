"""Whether a model that was built is the one that others published: tensors, config and tokenizer of both, side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_assets.api.matched import Bytes, Readable, matched
from merge_assets.checkpoint import Checkpoint, TensorHeader, read_chat_template, read_tokenizer
from merge_assets.checkpoint.tensors import DTYPES
from merge_assets.checkpoint.tokenizer import VOCABULARY_FILES
from merge_assets.errors import CheckpointError
from merge_assets.plan.decisions import TensorDecision
from merge_assets.reference import ModelReference
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Workspace
from merge_assets.workspace.models import Models

if TYPE_CHECKING:
    from merge_assets.analysis.distance import Distance

_BLOCK = 8 << 20
_PIECE = 16 << 10
_PIECES = 4
"""Runs of bytes of one tensor that a sample consists of."""
_AT_ONCE = 8
_UNMEANT = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"})
"""Keys of a config that say nothing of the arithmetic, or that headers say better."""


@dataclass(frozen=True)
class TensorLikeness:
    """One tensor that both have in the same shape.

    Attributes:
        name: of the tensor, in the one that was built.
        layer: of the main part; ``None`` outside of it.
        dtypes: safetensors codes in both.
        distance: over what was compared; ``None`` for integers and packed weights, of which bytes alone are compared.
        alike: whether all that was compared is equal.
    """

    name: str
    layer: int | None
    dtypes: tuple[str, str]
    distance: Distance | None
    alike: bool

    @property
    def within_rounding(self) -> bool:
        """Whether both may be one tensor, rounded to the coarser of both dtypes."""
        from merge_assets.analysis.distance import EPSILON

        if self.alike or self.distance is None:
            return self.alike
        return self.distance.relative <= max(EPSILON[dtype] for dtype in self.dtypes)


@dataclass(frozen=True)
class Likeness:
    """What two models have in common.

    Attributes:
        tensors: those of one role and shape.
        decisions: tensors of one role that both do not name or group alike; ``renamed`` and ``regrouped``.
        only_built: names of those that the built one has alone.
        only_reference: names of those that the other one has alone.
        shapes: name -> shapes in both, where they differ.
        config: key of the config -> its value in both, where they differ; ``None`` where it is missing.
        tokenizer: what differs in the tokenizers and chat templates, one sentence each.
        sampled: whether some bytes of each tensor were read, not all.
    """

    tensors: tuple[TensorLikeness, ...]
    decisions: tuple[TensorDecision, ...]
    only_built: tuple[str, ...]
    only_reference: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    config: Mapping[str, tuple[Any, Any]]
    tokenizer: tuple[str, ...]
    sampled: bool

    @property
    def same_weights(self) -> bool:
        """Whether both have the same tensors up to the rounding of their dtype, as far as was compared."""
        same_names = not (self.only_built or self.only_reference or self.shapes)
        return same_names and all(one.within_rounding for one in self.tensors)

    @property
    def is_same(self) -> bool:
        """Whether it is the same model: the same weights, and a config that says the same of the arithmetic."""
        return self.same_weights and not self.config

    def layers(self) -> dict[int | None, Distance]:
        """The distance of each layer, and under ``None`` of what lies outside of them."""
        from merge_assets.analysis.distance import Distance

        found: dict[int | None, Distance] = {}
        for one in self.tensors:
            if one.distance is not None:
                found[one.layer] = found.get(one.layer, Distance()) + one.distance
        return found


def likeness(
    workspace: Workspace,
    built: ModelReference,
    reference: ModelReference,
    *,
    every_byte: bool = False,
    work: Work = UNATTENDED,
) -> Likeness:
    """Compare two models, their tensors matched by role: headers first, then samples of every tensor, or all of it.

    Args:
        workspace: settings, store and Hub.
        built: the one that was built: a recipe's name, a folder, a URL, or ``org/name`` on the Hub.
        reference: the one that it should be, likewise.
        every_byte: compare all bytes of all tensors; else 64 KiB of each, spread over it, the same of both.
        work: told bytes of the built model that were compared; asked before every block.

    Raises:
        CheckpointError: if a model cannot be read; HubError if it is on the Hub.
    """
    models = Models(workspace)
    own, other, decisions = matched(*(_opened(workspace, models, one) for one in (built, reference)))
    ours, theirs = own.checkpoint, other.checkpoint
    common = [name for name in ours.tensors if name in theirs.tensors]
    shapes = {name: (ours.tensors[name].shape, theirs.tensors[name].shape) for name in common}
    unequal = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    paired = [(ours.tensors[name], theirs.tensors[name]) for name in common if name not in unequal]
    total = sum(min(a.nbytes, math.inf if every_byte else _PIECE * _PIECES) for a, _ in paired)
    done = 0

    def one(pair: tuple[TensorHeader, TensorHeader]) -> TensorLikeness:
        nonlocal done
        found, count = _compared(
            *pair, own.read, other.read, _layer(ours, pair[0].name), every_byte=every_byte, work=work
        )
        done += count
        work.report(done, int(total), pair[0].name)
        return found

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tensors = tuple(pool.map(one, paired))
    return Likeness(
        tensors,
        decisions,
        tuple(name for name in ours.tensors if name not in theirs.tensors),
        tuple(name for name in theirs.tensors if name not in ours.tensors),
        unequal,
        _config(ours.config, theirs.config),
        tuple(_tokenizers(ours, theirs)),
        sampled=not every_byte,
    )


def _compared(
    a: TensorHeader,
    b: TensorHeader,
    read_a: Bytes,
    read_b: Bytes,
    layer: int | None,
    *,
    every_byte: bool,
    work: Work,
) -> tuple[TensorLikeness, int]:
    """The likeness of two tensors of one shape, and how many bytes of the first were read."""
    from merge_assets.analysis.distance import Distance, distance, has_numbers

    numbers = has_numbers(a.dtype) and has_numbers(b.dtype)
    alike, apart, read = numbers or a.dtype == b.dtype, Distance() if numbers else None, 0
    for begin, end in _runs(a.numel, DTYPES[a.dtype], every_byte=every_byte):
        work.check(f"comparing {a.name}")
        own = read_a(a, begin * DTYPES[a.dtype], end * DTYPES[a.dtype])
        other = read_b(b, begin * DTYPES[b.dtype], end * DTYPES[b.dtype])
        read += len(own)
        if apart is None:
            alike = alike and own == other
        else:
            apart += distance(own, a.dtype, other, b.dtype)
    if apart is not None:
        alike = not apart.unequal
    return TensorLikeness(a.name, layer, (a.dtype, b.dtype), apart, alike), read


def _runs(count: int, size: int, *, every_byte: bool) -> Iterator[tuple[int, int]]:
    """Runs of elements that are compared: all in blocks, or some that are spread evenly."""
    length = (_BLOCK if every_byte else _PIECE) // size
    if every_byte or count <= length * _PIECES:
        yield from ((begin, min(begin + length, count)) for begin in range(0, count, length))
        return
    for piece in range(_PIECES):
        begin = (count - length) * piece // (_PIECES - 1)
        yield begin, begin + length


def _opened(workspace: Workspace, models: Models, reference: ModelReference) -> Readable:
    """A model's headers, and what reads its bytes; of one on the Hub or at a URL, ranges alone are fetched."""
    kind = workspace.names.identify(reference).kind if reference.lora is None else None
    if kind == "url":
        model = models.at_urls.open(reference)
        return Readable(reference, model.checkpoint, model.read)
    if kind == "hub":
        hub = workspace.hub
        revision = hub.resolve(reference)
        checkpoint = hub.open(revision)

        def read_range(header: TensorHeader, begin: int, end: int) -> bytes:
            return hub.read_range(revision, header.file, header.begin + begin, header.begin + end)

        return Readable(reference, checkpoint, read_range)
    checkpoint = models.fetch(reference, with_digests=False).checkpoint
    folder = Path(checkpoint.location)

    def read_file(header: TensorHeader, begin: int, end: int) -> bytes:
        try:
            with (folder / header.file).open("rb") as file:
                raw = os.pread(file.fileno(), end - begin, header.begin + begin)
        except OSError as error:
            raise CheckpointError(f"{folder / header.file}: cannot be read: {error.strerror}") from None
        if len(raw) < end - begin:
            raise CheckpointError(
                f"{folder / header.file}: ends before tensor {header.name} does; it changed while read"
            )
        return raw

    return Readable(reference, checkpoint, read_file)


def _layer(checkpoint: Checkpoint, name: str) -> int | None:
    found = checkpoint.stacks[0].split(name) if checkpoint.stacks else None
    return None if found is None else found[0]


def _config(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    own, other = dict(_flat(ours)), dict(_flat(theirs))
    keys = [key for key in (*own, *(key for key in other if key not in own)) if own.get(key) != other.get(key)]
    return {key: (own.get(key), other.get(key)) for key in keys if key.rpartition(".")[2] not in _UNMEANT}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tokenizers(ours: Checkpoint, theirs: Checkpoint) -> Iterator[str]:
    named = [name for name in VOCABULARY_FILES if name in ours.files or name in theirs.files]
    if all(name in ours.files and name in theirs.files and ours.read(name) == theirs.read(name) for name in named):
        yield from _templates(ours, theirs)
        return
    try:
        own, other = read_tokenizer(ours).by_number(), read_tokenizer(theirs).by_number()
    except CheckpointError as error:
        yield f"the tokenizers were not compared: {error}"
    else:
        if len(own) != len(other):
            yield f"{len(own)} and {len(other)} tokens"
        unlike = [number for number, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1]]
        if unlike:
            first = unlike[0]
            yield f"{len(unlike)} numbers stand for other tokens; the first is {first}: {own[first]!r} and {other[first]!r}"
    yield from _templates(ours, theirs)


def _templates(ours: Checkpoint, theirs: Checkpoint) -> Iterator[str]:
    try:
        if read_chat_template(ours) != read_chat_template(theirs):
            yield "the chat templates differ"
    except CheckpointError as error:
        yield f"the chat templates were not compared: {error}"
