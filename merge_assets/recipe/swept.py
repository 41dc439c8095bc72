"""The recipes of sweeps, and which of them tell what a sweep changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from merge_assets.recipe.schema import Recipe


def sweeps_of(recipes: Iterable[Recipe]) -> Mapping[str, tuple[Recipe, ...]]:
    """The recipes of each sweep, in the order of its points."""
    found: dict[str, list[tuple[int, Recipe]]] = {}
    for recipe in recipes:
        if recipe.swept is not None:
            found.setdefault(recipe.swept.sweep, []).append((recipe.swept.number, recipe))
    return {name: tuple(recipe for _, recipe in sorted(of, key=lambda one: one[0])) for name, of in found.items()}


def telling(points: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The first point of a sweep, and for each place one that has another value there and, if there is such a one, nowhere
    else."""
    values = [point.swept.values for point in points if point.swept]
    first, others = values[0], values[1:]
    found = {0: None}
    for path in first:
        differing = [
            (sum(other[one] != first[one] for one in first), number)
            for number, other in enumerate(others, 1)
            if other[path] != first[path]
        ]
        if differing:
            found[min(differing)[1]] = None
    return tuple(points[number] for number in found)
