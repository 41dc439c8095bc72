"""All inputs in the donor's spelling: tensors of one role under one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from merge_assets.architecture.spelling import respelled, without_training
from merge_assets.checkpoint import Checkpoint
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.decisions import Decisions
from merge_assets.plan.made import MadeTensors, StoredTensor


def spelled_alike(inputs: Sequence[PlanInput], donor: int, decisions: Decisions) -> tuple[PlanInput, ...]:
    """The inputs with names as the donor has them.

    Wrappers of training go from all names, the donor's too: with them, no class would load the tensors.

    Args:
        inputs: as they are merged otherwise.
        donor: index of the input that the variant's names are of.
        decisions: get those that have other names in their files.
    """
    cleared = [_cleared(item) for item in inputs]
    theirs = cleared[donor].checkpoint
    found = tuple(item if n == donor else _like(item, theirs) for n, item in enumerate(cleared))
    for old, new in zip(inputs, found, strict=True):
        for name, read in zip(old.checkpoint.tensors, new.checkpoint.tensors, strict=True):
            if name != read:
                decisions.add("renamed", new.reference, name, f"read {_difference(name, read)}")
    return found


def _cleared(item: PlanInput) -> PlanInput:
    names = without_training(item.checkpoint.tensors.keys())
    return _renamed(item, names) if names else item


def _like(item: PlanInput, donor: Checkpoint) -> PlanInput:
    own, theirs = item.checkpoint.tensors, donor.tensors
    names = [name for name in own if name not in theirs]
    wanted = [name for name in theirs if name not in own]
    alike = respelled(names, item.checkpoint.config, wanted, donor.config) if names and wanted else {}
    fitting = {old: new for old, new in alike.items() if len(own[old].shape) == len(theirs[new].shape)}
    return _renamed(item, fitting) if fitting else item


def _renamed(item: PlanInput, names: Mapping[str, str]) -> PlanInput:
    """An input with other names for its tensors, where these are no other's."""
    kept = {name for name in item.checkpoint.tensors if names.get(name, name) == name}
    names = {old: new for old, new in names.items() if old != new and new not in kept}
    if len(set(names.values())) < len(names):
        return item
    tensors, origins = {}, dict(item.made.origins)
    for name, header in item.checkpoint.tensors.items():
        new = names.get(name, name)
        tensors[new] = replace(header, name=new)
        if new != name:
            origins[new] = origins.pop(name, StoredTensor(header))
    return replace(
        item,
        checkpoint=replace(item.checkpoint, tensors=tensors),
        made=MadeTensors(origins, item.made.aside),
    )


def _difference(name: str, read: str) -> str:
    """The words in which two names differ."""
    old, new = name.split("."), read.split(".")
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    if not old or not new:
        return f"with {'.'.join(new)}" if new else f"without {'.'.join(old)}"
    return f"{'.'.join(old)} → {'.'.join(new)}"
