"""Layers that would compute otherwise in their new places: asked of transformers, before a weight is read.

Some families derive numbers from a layer's place or from the number of layers: DiffLlama's lambda, residual scales by the
square root of the depth. No key of the config says so, and where a layer moves, they change.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from merge_assets.architecture.depth import depends_on_depth
from merge_assets.extras import is_installed
from merge_assets.model_worker import Limits
from merge_assets.plan import Plan, PlanInput
from merge_assets.variant.agreement import DEFAULT, ChangedLayer, changed_layers
from merge_assets.work import UNATTENDED, Work


def moved_layers(
    plan: Plan, inputs: Sequence[PlanInput], *, limits: Limits = DEFAULT, work: Work = UNATTENDED
) -> tuple[str, ...]:
    """What a person should know of layers that would compute with other numbers than in the models that they come from.

    Nothing is asked where all layers keep their places, or where the family is known to compute alike everywhere.

    Args:
        plan: what would be built.
        inputs: what it was planned from.
        limits: of the process in which transformers is asked.
        work: asked several times a second.

    Raises:
        Stopped: on request.
    """
    donor = inputs[plan.donor].checkpoint
    spans = plan.layers
    is_moved = plan.layer_count != donor.layer_count or any(
        s.start != span.start for span in spans for s in span.sources
    )
    if not is_moved or not depends_on_depth(donor.config) or not is_installed("torch", "transformers"):
        return ()
    # What a layer of one kind has and one of another has not is in the names of their tensors.
    changed = [
        one
        for one in changed_layers("by_layer", plan, inputs, limits, work)
        if one.now is not None and None not in one.before
    ]
    return tuple(_told(list(group)) for _, group in groupby(changed, key=lambda one: one.name))


def _told(changed: Sequence[ChangedLayer]) -> str:
    one = changed[0]
    more = f", and so {len(changed) - 1} more" if len(changed) > 1 else ""
    return (
        f"layer {one.layer} computes with {one.name} {_shown(one.now)}, and with {_shown(one.before[0])} as layer "
        f"{one.source} of {one.model}{more}: it depends on the place of a layer or the number of layers, and no key of the "
        "config says otherwise"
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
