"""What the points of a sweep will take together: what they share is made and stored once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.api.plan import plan
from merge_assets.errors import MergeAssetsError, RecipeError, in_file
from merge_assets.identity import variant_line
from merge_assets.plan import Plan
from merge_assets.recipe import Recipe
from merge_assets.records import VariantDetails
from merge_assets.workspace import Models, Workspace

_LOOKED_AT = 100
"""Recipes of which builds are looked at for their speed."""


@dataclass(frozen=True)
class SweepPlan:
    """The points of a sweep and what it takes to build all of them.

    Attributes:
        name: of the sweep.
        points: each recipe with its values by key path, and its plan or why there is none.
        tensors: of all points.
        distinct: tensors that are different ones; each is computed, or copied from a model, once.
        bytes_apart: what the points would take if each were stored by itself.
        bytes_to_write: what they take: a file that several points have is stored once.
        bytes_per_second: written by the newest build by the same method of this store, if there is one.
    """

    name: str
    points: tuple[tuple[Recipe, Mapping[str, Any], Plan | MergeAssetsError], ...]
    tensors: int
    distinct: int
    bytes_apart: int
    bytes_to_write: int
    bytes_per_second: float | None

    @property
    def seconds(self) -> float | None:
        """About how long merging takes, at the speed of that build."""
        return None if self.bytes_per_second is None else self.bytes_to_write / self.bytes_per_second


def plan_sweep(workspace: Workspace, name: str) -> SweepPlan:
    """Plan every point of a sweep from headers alone.

    Raises:
        RecipeError: there is no such sweep.
    """
    points = workspace.book.sweeps.get(name)
    if points is None:
        raise RecipeError(f"there is no sweep {name!r}; `merge-assets recipes` lists its points")
    planned = []
    models = Models(workspace)
    for recipe in points:
        assert recipe.swept is not None
        found: Plan | MergeAssetsError
        try:
            with in_file(recipe.source.file):
                found = plan(workspace, recipe, models=models)
        except MergeAssetsError as error:
            found = error
        planned.append((recipe, recipe.swept.values, found))
    plans = [found for _, _, found in planned if isinstance(found, Plan)]
    files: dict[object, int] = {}
    for made in plans:
        keys: list[list[str]] = [[] for _ in made.shards]
        for tensor in made.tensors:
            keys[tensor.shard].append(tensor.key)
        files |= {(s.header, *own): s.size for s, own in zip(made.shards, keys, strict=True)}
    return SweepPlan(
        name,
        tuple(planned),
        tensors=sum(len(made.tensors) for made in plans),
        distinct=len({tensor.key for made in plans for tensor in made.tensors}),
        bytes_apart=sum(made.bytes_to_write for made in plans),
        bytes_to_write=sum(files.values()),
        bytes_per_second=_speed(workspace, plans[0].method) if plans else None,
    )


def _speed(workspace: Workspace, method: str) -> float | None:
    """Bytes a second of the newest build by a method that wrote any."""
    newest = None
    for recipe in [one for one in workspace.book.recipes.values() if one.merge_method == method][:_LOOKED_AT]:
        artifact = workspace.store.current(variant_line(recipe.name))
        if artifact is None:
            continue
        report = artifact.manifest.described(VariantDetails).report
        if report is None or not report.bytes_written or not report.seconds:
            continue
        if newest is None or artifact.manifest.created > newest[0]:
            newest = artifact.manifest.created, report.bytes_written / report.seconds
    return None if newest is None else newest[1]
