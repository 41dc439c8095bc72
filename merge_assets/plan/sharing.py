"""Shards that the points of a sweep have in common: tensors that the sweep leaves alone lie in files of their own.

Points of a sweep differ in some of their tensors. Were those spread over all files, no file of one point would be a file of
another, and each point would be written as a whole. What differs is told from the keys of a few points, the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Keys = Mapping[str, str]
"""Of the tensors of one point: name -> key."""


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
