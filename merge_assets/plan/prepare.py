"""Inputs as they are merged: quantised weights read as numbers, adapters applied; nothing but headers is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from merge_assets.checkpoint import (
    Checkpoint,
    PackedWeight,
    Quantised,
    ScaledWeight,
    TensorHeader,
    read_lora,
    read_quantised,
    read_unscaled,
)
from merge_assets.checkpoint.files import sentence_files
from merge_assets.errors import CheckpointError
from merge_assets.plan.adapted import adapt
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.made import DEQUANTIZE, UNPACK, Made, MadeTensors, StoredTensor, TensorOrigin
from merge_assets.plan.problems import first_mention, plan_error
from merge_assets.recipe import Recipe


def prepared(recipe: Recipe, inputs: Sequence[PlanInput]) -> tuple[PlanInput, ...]:
    """The inputs with the headers that they have once they are dequantised and adapted.

    Raises:
        PlanError: if an input is quantised in a way that is not read, or its adapter does not fit it.
    """
    template = recipe.prune_layers
    if template is not None and template.model.lora is not None and template.is_measured:
        raise plan_error(
            recipe,
            "prune_layers.model",
            f"{template.model} has an adapter, and only stored models are analysed; build it by a recipe of its own "
            "(passthrough) and name that, or name the layers with by: list",
        )
    return tuple(_prepared(recipe, item) for item in inputs)


def notes(before: Sequence[PlanInput], after: Sequence[PlanInput]) -> list[str]:
    """What a person should know of the inputs, given as they were before they were prepared and after."""
    found = []
    for old, new in zip(before, after, strict=True):
        rows = [item.checkpoint.config.get("vocab_size") for item in (old, new)]
        if rows[0] != rows[1]:
            found.append(
                f"{new.reference}: the adapter brings {rows[1]} token rows instead of {rows[0]}, but no tokenizer; the "
                "variant has the model's, so add the adapter's tokenizer files to it"
            )
        inner = [name for name in sentence_files(new.checkpoint.files) if name.endswith((".safetensors", ".bin"))]
        found += [f"{new.reference}: {name} is not merged; the donor's is carried along" for name in inner]
    return found


def _prepared(recipe: Recipe, item: PlanInput) -> PlanInput:
    try:
        quantised = read_quantised(item.checkpoint) if item.folded is None else None
    except CheckpointError as error:
        raise plan_error(recipe, first_mention(recipe, item.reference), f"{item.reference} {error}") from None
    computes = recipe.merge_method != "passthrough" or (recipe.out_dtype or recipe.dtype) is not None
    if quantised is None and item.folded is None and computes:
        quantised = read_unscaled(item.checkpoint)
    if quantised is None and item.adapter is None:
        return item
    checkpoint, origins, aside = item.checkpoint, dict[str, TensorOrigin](), dict[str, str]()
    if quantised is not None:
        checkpoint, origins = _dequantised(checkpoint, quantised)
        aside.update(quantised.aside)
    if item.adapter is not None:
        try:
            checkpoint, origins, replaced = adapt(checkpoint, origins, read_lora(item.adapter.checkpoint))
        except CheckpointError as error:
            raise plan_error(recipe, first_mention(recipe, item.reference), str(error)) from None
        aside.update(replaced)
    return replace(item, checkpoint=checkpoint, made=MadeTensors(origins, aside))


def _dequantised(checkpoint: Checkpoint, quantised: Quantised) -> tuple[Checkpoint, dict[str, TensorOrigin]]:
    tensors: dict[str, TensorHeader] = {}
    of_codes = {packed.codes.name: name for name, packed in quantised.packed.items()}
    for name, header in checkpoint.tensors.items():
        if name in of_codes:
            weight = of_codes[name]
            tensors[weight] = replace(header, name=weight, dtype=quantised.dtype, shape=quantised.packed[weight].shape)
        elif name in quantised.weights:
            tensors[name] = replace(header, dtype=quantised.dtype)
        elif name not in quantised.aside:
            tensors[name] = header
    origins: dict[str, TensorOrigin] = {name: _scaled(weight) for name, weight in quantised.weights.items()}
    origins.update({name: _unpacked(weight) for name, weight in quantised.packed.items()})
    return replace(checkpoint, tensors=tensors, config=quantised.config), origins


def _scaled(scaled: ScaledWeight) -> Made:
    rows, columns = scaled.block
    stored = [scaled.weight] if scaled.scale is None else [scaled.weight, scaled.scale]
    parts = tuple(StoredTensor(header) for header in stored)
    return Made(DEQUANTIZE.name, scaled.weight.shape, parts, {"block_rows": rows, "block_columns": columns})


def _unpacked(packed: PackedWeight) -> Made:
    parts = (StoredTensor(packed.codes), StoredTensor(packed.scale))
    how = {"codes": packed.kind, "group": packed.group, "transposed": packed.transposed}
    return Made(UNPACK.name, packed.shape, parts, how)
