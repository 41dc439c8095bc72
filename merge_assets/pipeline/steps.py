"""One asset made by one step."""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster import Any as AnyValue

from merge_assets.pipeline.lateness import fresh_seconds, is_due
from merge_assets.pipeline.reasons import AGAIN_TAG, ASKED, EVERYTHING, reason, with_reason
from merge_assets.pipeline.versions import recorded

StepFunction = Callable[[dg.AssetExecutionContext], dg.MaterializeResult[None] | None]

# The same for every step: making them anew for each costs Dagster as much as all the rest.
_DEPENDENCY = dg.In(dg.Nothing)
# Not required: what was asked for only because its input was, and that input came out as it was, is left alone.
_ASSET = dg.Out(dg.Nothing, is_required=False)
_CHECK = dg.Out(AnyValue, is_required=False)
_SIGNATURE = inspect.Signature([inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)])


def is_forced(context: dg.AssetExecutionContext) -> bool:
    """Whether variants are computed again in this run."""
    return context.run.tags.get(AGAIN_TAG) == EVERYTHING


def is_refreshed(context: dg.AssetExecutionContext) -> bool:
    """Whether analyses and scores are measured again in this run."""
    return AGAIN_TAG in context.run.tags


FOLLOW_TAG = "merge_assets/follow"
"""Tag of a run that was asked for by nobody: assets of it whose inputs came out as they were are left alone."""


def _follows(context: dg.AssetExecutionContext) -> bool:
    """Whether nobody asked for what this run makes; one that a person runs again has its tags, and a parent."""
    return FOLLOW_TAG in context.run.tags and context.run.parent_run_id is None


def _is_due(context: dg.AssetExecutionContext, spec: dg.AssetSpec) -> bool:
    """Whether it is time to look whether the asset is still the same."""
    fresh = fresh_seconds(spec)
    known = recorded(context.instance, spec.key) if fresh is not None else None
    return known is not None and is_due(fresh, known.at, time.time())


def single_asset(
    spec: dg.AssetSpec,
    name: str,
    *,
    checks: Sequence[dg.AssetCheckSpec] = (),
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
    config: Mapping[str, dg.Field] | None = None,
) -> Callable[[StepFunction], dg.AssetsDefinition]:
    """Decorator: the asset of ``spec``, made by a function that returns its ``MaterializeResult``, to which the step adds why,
    or nothing where there is nothing to make.

    The same as ``dg.multi_asset(specs=[spec], …)`` without what that works out for functions of any shape, which takes
    half the time that the definitions of a thousand recipes take.

    Args:
        spec: the asset; its dependencies become inputs without values.
        name: name of the step.
        checks: checks whose results the function returns with the asset.
        pool: see :mod:`merge_assets.pipeline.gpu`.
        op_tags: see :mod:`merge_assets.pipeline.gpu`.
        config: what a run may set for it.
    """
    inputs = {f"input_{number}": dep.asset_key for number, dep in enumerate(spec.deps)}
    outputs = {check.name: check for check in checks}

    def decorate(function: StepFunction) -> dg.AssetsDefinition:
        def step(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
            why = reason(context.instance, context.run.tags, spec)
            if why == ASKED and _follows(context) and not _is_due(context, spec):
                context.log.info("its inputs came out as they were: nothing to do")
                return
            made = function(context)
            if made is not None:
                yield made._replace(metadata=with_reason(made.metadata or {}, why))

        step.__signature__ = _SIGNATURE  # type: ignore[attr-defined]  # asked for fifteen times
        op = dg.op(
            name=name,
            ins=dict.fromkeys(inputs, _DEPENDENCY),
            out={"result": _ASSET, **dict.fromkeys(outputs, _CHECK)},
            pool=pool,
            tags=op_tags,
            config_schema=config,
        )(step)
        return dg.AssetsDefinition(
            keys_by_input_name=inputs,
            keys_by_output_name={"result": spec.key},
            node_def=op,
            specs=[spec],
            check_specs_by_output_name=outputs,
        )

    return decorate
