"""Layers that would compute otherwise in their new places: asked of transformers, before a weight is read.

Some families derive numbers from a layer's place or from the number of layers: DiffLlama's lambda, residual scales by the
square root of the depth. No key of the config says so, and where a layer moves, they change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from merge_assets.architecture.depth import depends_on_depth
from merge_assets.errors import ModelWorkerError
from merge_assets.extras import is_installed
from merge_assets.model_worker import Limits, ask
from merge_assets.plan import Plan, PlanInput
from merge_assets.variant.agreement import DEFAULT, LOADING
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
    after = _by_layer(plan.config, plan.layer_count, limits, work)
    sources = {source.model for span in spans for source in span.sources}
    before = {
        model: _by_layer(inputs[model].checkpoint.config, inputs[model].checkpoint.layer_count, limits, work)
        for model in sources
    }
    found = []
    for name, values in after.items():
        changed = []
        for span in spans:
            for offset in range(span.end - span.start):
                places = [(source.model, source.start + offset) for source in span.sources]
                had = [before[model][name][layer] for model, layer in places if name in before[model]]
                # What a layer of one kind has and one of another has not is in the names of their tensors.
                if had and None not in had and values[span.start + offset] not in (None, *had):
                    changed.append((span.start + offset, places[0], had[0]))
        if changed:
            layer, (model, source), was = changed[0]
            more = f", and so {len(changed) - 1} more" if len(changed) > 1 else ""
            found.append(
                f"layer {layer} computes with {name} {_shown(values[layer])}, and with {_shown(was)} as layer {source} of "
                f"{inputs[model].reference}{more}: it depends on the place of a layer or the number of layers, and no key of "
                "the config says otherwise"
            )
    return tuple(found)


def _by_layer(config: Mapping[str, Any], count: int, limits: Limits, work: Work) -> dict[str, list[Any]]:
    arguments = {"config": json.dumps(config, sort_keys=True), "count": count}
    try:
        said = ask(LOADING, "by_layer", arguments, limits, limit="load", work=work)
    except ModelWorkerError:  # what cannot be made says nothing
        return {}
    return {str(name): list(values) for name, values in said.items() if len(values) == count}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
