"""Where the tensors of a variant stand: in which part, before, in or behind its layers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from merge_assets.architecture import find_parts, find_stacks
from merge_assets.architecture.anatomy import is_after_layers, is_head, is_task_head
from merge_assets.architecture.parts import PROJECTOR, TEXT_PART, Part
from merge_assets.architecture.stacks import split_number
from merge_assets.plan.model import OutputTensor, Plan


class Side(Enum):
    """On which side of its part's layers a tensor stands, in words."""

    BEFORE = "before the layers"
    LAYERS = "layers"
    AFTER = "after the layers"
    HEAD = "head"


@dataclass(frozen=True)
class Placed:
    """An output tensor and its place.

    Attributes:
        tensor: of the plan.
        part: what people call the part; empty for the only one.
        is_main: whether it is of the part whose layers the recipe merges or stacks.
        side: of the part's layers.
        layer: of the variant's part; ``None`` outside the layers.
        words: the name within the layer, or the whole one: ``("self_attn", "q_proj", "weight")``.
    """

    tensor: OutputTensor
    part: str
    is_main: bool
    side: Side
    layer: int | None
    words: tuple[str, ...]


def placed(plan: Plan) -> list[Placed]:
    """Every tensor of a plan with its place, the main part's first, each part's in file order."""
    sizes = {tensor.name: tensor.nbytes for tensor in plan.tensors}
    parts = find_parts(sizes, find_stacks(sizes, plan.config, sizes))
    homes = {name: part for part in parts for name in part.outside}
    stacks = [(stack, part) for part in parts for stack in part.stacks]
    merged = next((tensor.name for tensor in plan.tensors if tensor.layer is not None), None)
    main = next((part for stack, part in stacks if merged is not None and stack.split(merged)), next(iter(parts), None))
    found = []
    for tensor in plan.tensors:
        stack, part = next(((one, of) for one, of in stacks if one.split(tensor.name)), (None, homes.get(tensor.name)))
        is_main = part is main or tensor.layer is not None
        split = split_number(tensor.name) if tensor.layer is not None else None
        if split is not None:
            layer, suffix = tensor.layer, split[2]
        elif stack is not None and not is_main and (of_tower := stack.split(tensor.name)):
            layer, suffix = of_tower
        else:
            layer, suffix = None, tensor.name
        side = Side.LAYERS if layer is not None else _side(tensor.name)
        home = main if is_main else part
        called = _called(home) if home is not None and len(parts) > 1 else ""
        found.append(Placed(tensor, called, is_main, side, layer, tuple(suffix.split("."))))
    return sorted(found, key=lambda one: not one.is_main)


def _side(name: str) -> Side:
    if not is_after_layers(name):
        return Side.BEFORE
    return Side.HEAD if is_head(name) or is_task_head(name) else Side.AFTER


def _called(part: Part) -> str:
    return {TEXT_PART: "text", PROJECTOR: "projector"}.get(part.name, part.name.replace("_", " "))
