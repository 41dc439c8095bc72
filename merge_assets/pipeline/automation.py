"""What rebuilds assets without a hand.

One rebuild condition for every built asset; one sensor that evaluates it; a nightly back-stop for what the condition
cannot see (it reacts to changes, so a failed run uses its change up); one schedule per distinct cron of the recipes.
"""

import functools
from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.pipeline.keys import job_suffix

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

AUTOMATION_SENSOR = "automation"
BACKSTOP_JOB = "rebuild_stale"
SCHEDULED_JOB = "scheduled_recipes"


@functools.cache
def rebuild_on_change() -> dg.AutomationCondition[dg.AssetKey]:
    """Build what is new, edited, or has an input whose bytes changed; never twice, never after a failed check.

    An asset waits for inputs that are missing, requested or in progress, so that each is built once, after them.
    """
    ac = dg.AutomationCondition
    return (
        _pending()
        & ~ac.any_deps_match(ac.missing() | ac.will_be_requested()).with_label("input_missing_or_requested")
        & ~ac.any_deps_in_progress()
        & ~ac.in_progress()
        & ac.all_deps_blocking_checks_passed()
    ).with_label("rebuild_on_change")


@functools.cache
def collect_on_change() -> dg.AutomationCondition[dg.AssetKey]:
    """The same for an asset that collects what is there, as the leaderboard does: missing inputs do not hold it up."""
    ac = dg.AutomationCondition
    return (
        _pending()
        & ac.any_deps_match(~ac.missing()).with_label("any_input_there")
        & ~ac.any_deps_match(ac.will_be_requested()).with_label("input_requested")
        & ~ac.any_deps_in_progress()
        & ~ac.in_progress()
    ).with_label("collect_on_change")


def _pending() -> dg.AutomationCondition[dg.AssetKey]:
    """A change that no request has answered yet.

    ``since(newly_requested)`` rather than ``since_last_handled``: a revision that arrives during a long run must not be
    forgotten when that run ends. ``newly_requested`` is true one tick after the request, so a change seen in that tick
    is newer than the request; the second half keeps it, which the first would drop.
    """
    ac = dg.AutomationCondition
    changed, requested = _changed(), ac.newly_requested()
    return changed.since(requested) | (changed & requested).since(requested & ~changed)


def _changed() -> dg.AutomationCondition[dg.AssetKey]:
    ac = dg.AutomationCondition
    return (
        (ac.missing() & ac.initial_evaluation()).with_label("new_recipe")
        | ac.newly_missing()
        | ac.any_deps_match(ac.data_version_changed()).with_label("input_bytes_changed")
        | ac.code_version_changed().with_label("recipe_edited")
    )


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions of all assets.

    ``AssetSelection.all()`` alone leaves out observable assets, and with them the changes of base checkpoints.
    """
    return dg.AutomationConditionSensorDefinition(
        AUTOMATION_SENSOR,
        target=dg.AssetSelection.all(include_sources=True),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        run_tags={"trigger": "automation"},
        description="Requests every asset that is new, edited, or has an input whose bytes changed.",
    )


def backstop(keys: list[dg.AssetKey]) -> "tuple[list[dg.ScheduleDefinition], list[AssetJob]]":
    """A nightly run of what is stale or missing among ``keys``."""
    if not keys:
        return [], []
    job = dg.define_asset_job(
        BACKSTOP_JOB,
        selection=dg.AssetSelection.assets(*keys),
        description="Everything that automation may build; the nightly schedule picks what is stale or missing.",
        run_tags={"trigger": "nightly"},
    )

    @dg.schedule(
        name="nightly",
        cron_schedule="0 3 * * *",
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Rebuilds what is still stale or missing, for instance after a failed run.",
    )
    def nightly() -> dg.RunRequest:
        return dg.RunRequest(stale_assets_only=True)

    return [nightly], [job]


def recipe_schedules(
    selections: dict[str, list[dg.AssetKey]],
) -> "tuple[list[dg.ScheduleDefinition], list[AssetJob]]":
    """One schedule per distinct cron string, all on one job.

    A job per recipe would make the code location's snapshot several times larger.

    Args:
        selections: assets to run, by cron string.
    """
    if not selections:
        return [], []
    every = sorted({key for keys in selections.values() for key in keys})
    job = dg.define_asset_job(
        SCHEDULED_JOB,
        selection=dg.AssetSelection.assets(*every),
        description="Variants whose recipes have a schedule, with their scores and the leaderboard.",
        run_tags={"trigger": "schedule"},
    )
    return [_recipe_schedule(cron, keys, job) for cron, keys in sorted(selections.items())], [job]


def _recipe_schedule(cron: str, keys: list[dg.AssetKey], job: "AssetJob") -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"recipes_{job_suffix(cron)}",
        cron_schedule=cron,
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Rebuilds and evaluates the recipes with `schedule: {cron!r}`.",
    )
    def run_recipes() -> dg.RunRequest:
        return dg.RunRequest(asset_selection=keys)

    return run_recipes
