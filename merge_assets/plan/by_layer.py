"""Tensors outside the layers that hold a block for every layer: cut where the layers are moved, repeated or left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from merge_assets.architecture.anatomy import axis_of_layers
from merge_assets.architecture.sizes import Sizes
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.made import GATHER, Made, MadeTensors, StoredTensor
from merge_assets.plan.problems import plan_error
from merge_assets.plan.resolver import Assembly
from merge_assets.plan.vocabulary_rows import repeated
from merge_assets.recipe import Recipe


def laid_by_layer(recipe: Recipe, inputs: Sequence[PlanInput], assembly: Assembly) -> tuple[PlanInput, ...]:
    """The inputs with such blocks in the order of the variant's layers.

    Args:
        recipe: for errors.
        inputs: as they are merged otherwise.
        assembly: which of their layers are merged, in which order.

    Raises:
        PlanError: if a model gives not one layer to every layer of the variant, so that a tensor would be put together of the
            blocks of several models; if a tensor has not the size that the config says.
    """
    main = assembly.parts[0]
    orders: dict[int, list[int]] = {}
    for source in (source for piece in main.slices for source in piece.sources):
        orders.setdefault(source.model, []).extend(range(source.start, source.end))
    found = list(inputs)
    for model, order in orders.items():
        part = inputs[model].checkpoint.part(main.name)
        if part is None or not part.stacks or order == list(range(part.count)):
            continue
        width = Sizes(inputs[model].checkpoint.config, part.stacks[0]).layer_input
        held = {name: axis for name in part.outside if width and (axis := axis_of_layers(name)) is not None}
        for name, axis in held.items():
            if len(order) != main.layers:
                raise plan_error(
                    recipe,
                    main.slices[0].key,
                    f"tensor {name} holds a block for every layer, and blocks of several models are not put together; take "
                    "all layers from one model, or from the same models in every slice",
                )
            shape = found[model].checkpoint.tensors[name].shape
            if len(shape) != 2 or shape[axis] != part.count * width:
                raise plan_error(
                    recipe,
                    main.slices[0].key,
                    f"tensor {name} of {inputs[model].reference} is {list(shape)}, and its config says {part.count} layers "
                    f"with hidden_size_per_layer_input {width}; mend its config",
                )
            found[model] = _cut(found[model], name, axis, order, part.count)
    return tuple(found)


def _cut(item: PlanInput, name: str, axis: int, order: Sequence[int], count: int) -> PlanInput:
    header = item.checkpoint.tensors[name]
    width = header.shape[axis] // count
    if axis == 0:
        shape = (len(order) * width, header.shape[1])
        rows = " ".join(f"{length * width}:0@{first * width}" for first, length in _spans(order))
    else:
        shape = (header.shape[0], len(order) * width)
        rows = repeated(header.shape[0], count, " ".join(f"{length}:0@{first}" for first, length in _spans(order)))
    origin = item.made.origins.get(name, StoredTensor(header))
    tensors = {**item.checkpoint.tensors, name: replace(header, shape=shape)}
    origins = {**item.made.origins, name: Made(GATHER.name, shape, (origin,), {}, rows=rows)}
    return replace(
        item, checkpoint=replace(item.checkpoint, tensors=tensors), made=MadeTensors(origins, item.made.aside)
    )


def _spans(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and number of layers that follow each other."""
    for _, group in itertools.groupby(enumerate(order), key=lambda item: item[1] - item[0]):
        found = [layer for _, layer in group]
        yield found[0], len(found)
