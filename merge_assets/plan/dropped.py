"""Input tensors that are not in the variant, and why not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from merge_assets.methods import Method
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.inputs import TensorId
from merge_assets.plan.model import DroppedTensor
from merge_assets.plan.resolver import Assembly
from merge_assets.recipe import Recipe


def left_out(
    recipe: Recipe,
    method: Method,
    assembly: Assembly,
    inputs: Sequence[PlanInput],
    used: Collection[TensorId],
    known: Mapping[TensorId, str],
) -> tuple[DroppedTensor, ...]:
    """Every tensor of the inputs that no output needs.

    Args:
        recipe: the recipe.
        method: its merge method.
        assembly: its parts.
        inputs: of the plan.
        used: tensors that outputs need.
        known: others, with the reason why they are not needed.
    """
    reasons = dict(known)
    named = {(s.model, part.name) for part in assembly.parts for piece in part.slices for s in piece.sources}
    merging = {model for model, _ in named}
    giving = {(model, part.name) for model, name in named if (part := inputs[model].checkpoint.part(name)) is not None}
    main = assembly.parts[0].name
    for model, item in enumerate(inputs):
        parts = item.checkpoint.parts
        stacks = [(part, stack) for part in parts for stack in part.stacks]
        idle = "" if model in merging else _why_idle(recipe, method, assembly, inputs, model)
        for name in item.checkpoint.tensors:
            place = next(((part, split[0]) for part, stack in stacks if (split := stack.split(name))), None)
            if model not in merging:
                reason = idle
            elif place is None:
                reason = "outside the layers; taken from the sources of the first or last slice"
            elif (model, place[0].name) in giving or (place[0] is parts[0] and item.checkpoint.part(main) is None):
                reason = f"layer {place[1]} is in no slice"
            elif inputs[assembly.donor].checkpoint.part(place[0].name) is None:
                reason = f"{inputs[assembly.donor].reference}, whose class the variant has, has no {place[0].name}"
            else:
                reason = f"the {place[0].name} is taken from another model"
            reasons.setdefault((model, name), reason)
    dropped = [DroppedTensor(*place, reason) for place, reason in reasons.items() if place not in used]
    return tuple(sorted(dropped, key=lambda tensor: tensor.model))


def _why_idle(recipe: Recipe, method: Method, assembly: Assembly, inputs: Sequence[PlanInput], model: int) -> str:
    """Why no tensor of an input is merged."""
    if model == assembly.donor:
        return "donates only config and tokenizer"
    if inputs[model].reference in {reference for _, reference in recipe.slice_bases()}:
        return f"is only the base of a slice, and {method.name} has no base"
    return "is named only for the tokenizer"
