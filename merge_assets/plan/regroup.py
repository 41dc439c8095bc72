"""All inputs with their matrices together or apart as the donor has them: fused projections, stacked experts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from merge_assets.architecture.regrouped import Held, Regrouped, RowRun, Shape, not_apart, regrouped
from merge_assets.architecture.sizes import Sizes
from merge_assets.architecture.stacks import split_number
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
        for run in how.runs:
            read.setdefault(run.tensor, []).append((run.first, _leaf(name)))
    for name, made in read.items():
        told = ", ".join(dict.fromkeys(leaf for _, leaf in sorted(made)))
        decisions.add("regrouped", item.reference, name, f"read {_leaf(name)} as {told}")
    return _regrouped(item, donor, found)


def why_not_apart(checkpoint: Checkpoint, name: str) -> str | None:
    """Why a projection of a layer is not cut out of what the same layer of a checkpoint has fused, in words; ``None`` if it has
    nothing of the kind.

    Args:
        checkpoint: that lacks the projection.
        name: of the projection.
    """
    place = split_number(name)
    beside = [other for other in checkpoint.tensors if place and (split_number(other) or ("", -1))[1] == place[1]]
    return next((why for held in _held(checkpoint, beside) if (why := not_apart(name, held)) is not None), None)


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
        first.setdefault(how.runs[0].tensor, []).append(name)
    given = {run.tensor for how in found.values() for run in how.runs}
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
    parts = list(dict.fromkeys((run.tensor, run.stack) for run in how.runs))
    sources = tuple(_part(item, *part) for part in parts)
    if how.stack is not None:
        turned = Made(GATHER.name, _turned(how.stack), sources, {}, rows=_rows(how.runs, parts))
        made = Made(TRANSPOSE.name, how.stack, (turned,), {})
        rows = math.prod(how.stack[:-1])
        return made if how.stack == shape else Made(GATHER.name, shape, (made,), {}, rows=f"{rows}:0@0")
    if len(how.runs) == 1 and item.checkpoint.tensors[how.runs[0].tensor].shape == shape:
        return sources[0]
    return Made(GATHER.name, shape, sources, {}, rows=_rows(how.runs, parts))


def _part(item: PlanInput, name: str, stack: Shape | None) -> TensorOrigin:
    origin = item.made.origins.get(name, StoredTensor(item.checkpoint.tensors[name]))
    return origin if stack is None else Made(TRANSPOSE.name, _turned(stack), (origin,), {})


def _turned(stack: Shape) -> Shape:
    return *stack[:-2], stack[-1], stack[-2]


def _rows(runs: Sequence[RowRun], parts: Sequence[tuple[str, Shape | None]]) -> str:
    places = {part: place for place, part in enumerate(parts)}
    return " ".join(f"{run.count}:{places[run.tensor, run.stack]}@{run.first}" for run in runs)


def _leaf(name: str) -> str:
    """What tells a tensor from the others of its module."""
    words = _NUMBER.sub(r"\1N.", name.removesuffix(".weight")).split(".")
    return ".".join(words[-3 if words[-1] == "bias" or "N" in words[-3:] else -2 :])
