"""One asset made by one step."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import Any as AnyValue

from merge_assets.pipeline.reasons import AGAIN_TAG, EVERYTHING, reason, with_reason

StepFunction = Callable[[dg.AssetExecutionContext], dg.MaterializeResult[None]]

# The same for every step: making them anew for each costs Dagster as much as all the rest.
_DEPENDENCY = dg.In(dg.Nothing)
_ASSET = dg.Out(dg.Nothing)
_CHECK = dg.Out(AnyValue)
_SIGNATURE = inspect.Signature([inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)])


def is_forced(context: dg.AssetExecutionContext) -> bool:
    """Whether variants are computed again in this run."""
    return context.run.tags.get(AGAIN_TAG) == EVERYTHING


def is_refreshed(context: dg.AssetExecutionContext) -> bool:
    """Whether analyses and scores are measured again in this run."""
    return AGAIN_TAG in context.run.tags


def single_asset(
    spec: dg.AssetSpec,
    name: str,
    *,
    checks: Sequence[dg.AssetCheckSpec] = (),
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
) -> Callable[[StepFunction], dg.AssetsDefinition]:
    """Decorator: the asset of ``spec``, made by a function that returns its ``MaterializeResult``, to which the step adds why.

    The same as ``dg.multi_asset(specs=[spec], …)`` without what that works out for functions of any shape, which takes
    half the time that the definitions of a thousand recipes take.

    Args:
        spec: the asset; its dependencies become inputs without values.
        name: name of the step.
        checks: checks whose results the function returns with the asset.
        pool: see :mod:`merge_assets.pipeline.gpu`.
        op_tags: see :mod:`merge_assets.pipeline.gpu`.
    """
    inputs = {f"input_{number}": dep.asset_key for number, dep in enumerate(spec.deps)}
    outputs = {check.name: check for check in checks}

    def decorate(function: StepFunction) -> dg.AssetsDefinition:
        def step(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
            why = reason(context.instance, context.run.tags, spec)
            made = function(context)
            return made._replace(metadata=with_reason(made.metadata or {}, why))

        step.__signature__ = _SIGNATURE  # type: ignore[attr-defined]  # asked for fifteen times
        op = dg.op(
            name=name,
            ins=dict.fromkeys(inputs, _DEPENDENCY),
            out={"result": _ASSET, **dict.fromkeys(outputs, _CHECK)},
            pool=pool,
            tags=op_tags,
        )(step)
        return dg.AssetsDefinition(
            keys_by_input_name=inputs,
            keys_by_output_name={"result": spec.key},
            node_def=op,
            specs=[spec],
            check_specs_by_output_name=outputs,
        )

    return decorate
