"""All inputs with their matrices together or apart as the donor has them: fused projections, stacked experts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from merge_assets.architecture.regrouped import Held, MatrixRows, Regrouped, regrouped
from merge_assets.architecture.sizes import Sizes
from merge_assets.checkpoint import Checkpoint
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.decisions import Decisions
from merge_assets.plan.made import GATHER, TRANSPOSE, Made, MadeTensors, StoredTensor, TensorOrigin

_NUMBER = re.compile(r"(experts\.)\d+\.")


def grouped_alike(inputs: Sequence[PlanInput], donor: int, decisions: Decisions) -> tuple[PlanInput, ...]:
    """The inputs with their tensors grouped as the donor's are.

    Args:
        inputs: in the donor's spelling, as far as whole tensors go.
        donor: index of the input that the variant's tensors are grouped as.
        decisions: get those that are grouped otherwise in their files.
    """
    theirs = inputs[donor].checkpoint
    return tuple(item if n == donor else _like(item, theirs, decisions) for n, item in enumerate(inputs))


def _like(item: PlanInput, donor: Checkpoint, decisions: Decisions) -> PlanInput:
    own = [name for name in item.checkpoint.tensors if name not in donor.tensors]
    wanted = [name for name in donor.tensors if name not in item.checkpoint.tensors] if own else []
    if not wanted:
        return item
    found = regrouped(_held(item.checkpoint, own), item.checkpoint.config, _held(donor, wanted), donor.config)
    if not found:
        return item
    read: dict[str, list[tuple[int, str]]] = {}
    for name, how in found.items():
        for piece in how.pieces:
            read.setdefault(piece.tensor, []).append((piece.first, _leaf(name)))
    for name, made in read.items():
        told = ", ".join(dict.fromkeys(leaf for _, leaf in sorted(made)))
        decisions.add("regrouped", item.reference, name, f"read {_leaf(name)} as {told}")
    return _regrouped(item, donor, found)


def _held(checkpoint: Checkpoint, names: Sequence[str]) -> Iterator[Held]:
    sizes: dict[str | None, Sizes] = {}
    for name in names:
        stack = next((stack for stack in checkpoint.stacks if stack.split(name)), None)
        prefix = stack.prefix if stack else None
        if prefix not in sizes:
            sizes[prefix] = Sizes(checkpoint.config, stack)
        yield Held(name, checkpoint.tensors[name].shape, sizes[prefix])


def _regrouped(item: PlanInput, donor: Checkpoint, found: Mapping[str, Regrouped]) -> PlanInput:
    stored, origins = item.checkpoint.tensors, dict(item.made.origins)
    first: dict[str, list[str]] = {}
    for name, how in found.items():
        first.setdefault(how.pieces[0].tensor, []).append(name)
    given = {piece.tensor for how in found.values() for piece in how.pieces}
    tensors = {}
    for name, header in stored.items():
        for made in first.get(name, ()):
            shape = donor.tensors[made].shape
            tensors[made] = replace(header, name=made, shape=shape)
            origins[made] = _origin(item, found[made], shape)
        if name not in given:
            tensors[name] = header
    for name in given:
        origins.pop(name, None)
    return replace(
        item, checkpoint=replace(item.checkpoint, tensors=tensors), made=MadeTensors(origins, item.made.aside)
    )


def _origin(item: PlanInput, how: Regrouped, shape: tuple[int, ...]) -> TensorOrigin:
    parts = list(dict.fromkeys((piece.tensor, piece.turned) for piece in how.pieces))
    sources = tuple(_part(item, *part) for part in parts)
    if len(how.pieces) == 1 and item.checkpoint.tensors[parts[0][0]].shape == shape:
        return _part(item, *parts[0])
    made = (*shape[:-2], shape[-1], shape[-2]) if how.turned else shape
    gathered = Made(GATHER.name, made, sources, {}, rows=_rows(how.pieces, parts))
    return Made(TRANSPOSE.name, shape, (gathered,), {}) if how.turned else gathered


def _part(item: PlanInput, name: str, turned: bool) -> TensorOrigin:
    header = item.checkpoint.tensors[name]
    origin = item.made.origins.get(name, StoredTensor(header))
    if not turned:
        return origin
    experts, rows, columns = header.shape
    return Made(TRANSPOSE.name, (experts, columns, rows), (origin,), {})


def _rows(pieces: Sequence[MatrixRows], parts: Sequence[tuple[str, bool]]) -> str:
    places = {part: place for place, part in enumerate(parts)}
    return " ".join(f"{piece.rows}:{places[piece.tensor, piece.turned]}@{piece.first}" for piece in pieces)


def _leaf(name: str) -> str:
    """What tells a tensor from the others of its module."""
    words = _NUMBER.sub(r"\1N.", name.removesuffix(".weight")).split(".")
    return ".".join(words[-3 if words[-1] == "bias" or "N" in words[-3:] else -2 :])
