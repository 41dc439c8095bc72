"""One check for each of many assets, evaluated by steps without an asset of their own."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from merge_assets.pipeline.keys import stand_ins

CHECKS_OF_A_STEP = 40
"""Dagster looks through all checks of a step for each of them: a thousand in one step take it five seconds."""


_KEYS_OF_A_QUERY = 500


def failed_checks(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckEvaluation]:
    """The last evaluations of those checks that failed."""
    yield from (event for event in last_evaluations(instance, checks).values() if not event.passed)


def last_evaluations(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last evaluations of those checks that have any."""
    found: dict[dg.AssetCheckKey, dg.AssetCheckEvaluation] = {}
    for start in range(0, len(checks), _KEYS_OF_A_QUERY):
        part = checks[start : start + _KEYS_OF_A_QUERY]
        for key, execution in instance.event_log_storage.get_latest_asset_check_execution_by_key(part).items():
            event = execution.event.asset_check_evaluation if execution.event else None
            if event is not None:
                found[key] = event
    return found


def build_checks(
    step: str,
    check: str,
    keys: Sequence[dg.AssetKey],
    look: Callable[[dg.AssetKey], dg.AssetCheckResult],
    description: str,
) -> list[dg.AssetsDefinition]:
    """The same check for several assets.

    Args:
        step: name of the step; further ones have a number behind it.
        check: name of the check.
        keys: the assets.
        look: evaluates the check of one.
        description: of the check.
    """
    parts = [keys[start : start + CHECKS_OF_A_STEP] for start in range(0, len(keys), CHECKS_OF_A_STEP)]
    return [
        _step(step if number == 1 else f"{step}_{number}", check, part, look, description)
        for number, part in enumerate(parts, start=1)
    ]


def _step(
    name: str,
    check: str,
    keys: Sequence[dg.AssetKey],
    look: Callable[[dg.AssetKey], dg.AssetCheckResult],
    description: str,
) -> dg.AssetsDefinition:
    named = stand_ins(keys)

    @dg.multi_asset_check(
        name=name,
        specs=[dg.AssetCheckSpec(check, asset=named[key], description=description) for key in keys],
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        for key in keys:
            if dg.AssetCheckKey(key, check) in context.selected_asset_check_keys:
                yield look(key)

    return checks.with_attributes(asset_key_replacements={name: key for key, name in named.items()})
