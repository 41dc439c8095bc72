"""Shards that the points of a sweep have in common: tensors that the sweep leaves alone lie in files of their own.

Points of a sweep differ in some of their tensors. Were those spread over all files, no file of one point would be a file of
another, and each point would be written as a whole. What differs is told from the keys of a few points, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from merge_assets.plan.assemble import PlanInput
from merge_assets.recipe import Recipe

Keys = Mapping[str, str]
"""Of the tensors of one point: name -> key."""

KeysOf = Callable[[Recipe, Sequence[PlanInput]], Keys | None]
"""The keys of a point that is made of some inputs; ``None`` if it cannot be."""


class Together:
    """Which tensors all points of a sweep, or all candidates of a search, have in files together. It is told once for the same
    inputs, however many of them are planned.

    Args:
        points: those that tell what is changed; without any, nothing is shared.
    """

    def __init__(self, points: Sequence[Recipe] = ()) -> None:
        self._points = points
        self._told: dict[object, tuple[Sequence[PlanInput], Mapping[str, int]]] = {}

    def groups(self, inputs: Sequence[PlanInput], keys_of: KeysOf) -> Mapping[str, int]:
        """See :func:`groups`, for a point that is made of some inputs.

        Args:
            inputs: of the point.
            keys_of: plans the points that tell.
        """
        told = tuple(map(_told, inputs))
        if told not in self._told:
            found = [keys for point in self._points if (keys := keys_of(point, inputs)) is not None]
            self._told[told] = inputs, groups(found)  # with the inputs, so that no other object has the number of one
        return self._told[told][1]


def _told(item: PlanInput) -> object:
    """What tells an input from others: its bytes, or where they are not known, the object."""
    adapter = None if item.adapter is None else item.adapter.fingerprint or id(item.adapter)
    return item.reference, item.fingerprint or id(item), adapter


def groups(points: Sequence[Keys]) -> dict[str, int]:
    """Which tensors go into files together: those that the same of ``points`` change, beside the first of them.

    Args:
        points: the keys of some points of a sweep, each of which changes something else than the others; those that have
            other tensors than the first tell nothing.

    Returns:
        Tensor name -> number of its group; what no point changes has 0.
    """
    if not points:
        return {}
    first, *others = points
    others = [other for other in others if other.keys() == first.keys()]
    changed = {name: tuple(other[name] != key for other in others) for name, key in first.items()}
    numbers = {group: number for number, group in enumerate(sorted(set(changed.values()) | {(False,) * len(others)}))}
    return {name: numbers[group] for name, group in changed.items()}
