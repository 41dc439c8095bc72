"""What rebuilds assets without a hand.

One rebuild condition for every built asset; one sensor that evaluates it; a nightly back-stop for what the condition
cannot see (it reacts to changes, so a failed run uses its change up); one schedule per distinct cron of the recipes.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from merge_assets.pipeline.keys import LEADERBOARD, schedule_names
from merge_assets.pipeline.versions import recorded_all, stale_reason, topological

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

AUTOMATION_SENSOR = "automation"
BACKSTOP_JOB = "rebuild_stale"
SCHEDULED_JOB = "scheduled_recipes"
# Together with the look at the Hub, a new revision is answered within a minute.
INTERVAL_SECONDS = 30


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
    """An absence that neither a request nor a run of others has ended, or a change that no request has answered.

    ``since(newly_requested)`` rather than ``since_last_handled``: a revision that arrives during a long run must not be
    forgotten when that run ends. ``newly_requested`` is true one tick after the request, so a change seen in that tick
    is newer than the request; the last line keeps it, which the one before would drop.

    Dagster remembers ``since`` by the shape of its operands: the three must differ in it, hence ``missing`` outside.
    """
    ac = dg.AutomationCondition
    requested, changed = ac.newly_requested(), _changed()
    absent = ac.missing() & (ac.initial_evaluation().with_label("new_recipe") | ac.newly_missing())
    return (
        (absent.since(requested) & ac.missing())
        | changed.since(requested)
        | (changed & requested).since(requested & ~changed)
    )


def _changed() -> dg.AutomationCondition[dg.AssetKey]:
    """What a run of both has changed (the nightly one, or `merge-assets build`) that run has answered."""
    ac = dg.AutomationCondition
    bytes_changed = ac.any_deps_match(ac.data_version_changed() & ~ac.executed_with_root_target())
    return bytes_changed.with_label("input_bytes_changed") | ac.code_version_changed().with_label("recipe_edited")


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions of all assets.

    ``AssetSelection.all()`` alone leaves out observable assets, and with them the changes of base checkpoints.
    """
    return dg.AutomationConditionSensorDefinition(
        AUTOMATION_SENSOR,
        target=dg.AssetSelection.all(include_sources=True),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
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
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        wanted = neglected(context.instance, context.repository_def.asset_graph, keys)
        return dg.RunRequest(asset_selection=wanted) if wanted else dg.SkipReason("nothing is stale or missing")

    return [nightly], [job]


def neglected(instance: dg.DagsterInstance, graph: "AssetGraph", keys: Sequence[dg.AssetKey]) -> list[dg.AssetKey]:
    """What is stale or missing among ``keys`` and can be built in one run, with all that follows from it.

    Dagster's own ``stale_assets_only`` goes one layer down per run, and takes what no input is there for: a checkpoint
    that was never observed, or a variant that failed a check.
    """
    specs = topological(graph.get(key).to_asset_spec() for key in keys)
    known = recorded_all(instance, {*keys, *(dep.asset_key for spec in specs for dep in spec.deps)})
    running = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.QUEUED,
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
        ]
    )
    busy = {key for run in instance.get_runs(running) for key in run.asset_selection or ()}
    chosen: dict[dg.AssetKey, None] = {}
    for spec in specs:
        deps = {dep.asset_key for dep in spec.deps}
        if not deps & chosen.keys() and stale_reason(spec, known) is None:
            continue
        if busy & {spec.key, *deps}:
            continue
        ready = [dep in chosen or (known[dep] is not None and _passed(instance, graph, dep)) for dep in deps]
        if any(ready) if spec.key == LEADERBOARD else all(ready):
            chosen[spec.key] = None
    return list(chosen)


def _passed(instance: dg.DagsterInstance, graph: "AssetGraph", key: dg.AssetKey) -> bool:
    """Whether no blocking check of an asset failed when it was evaluated last."""
    for check in graph.get(key).check_keys:
        record = instance.get_latest_asset_check_evaluation_record(check) if graph.get(check).blocking else None
        event = record.event if record is not None else None
        evaluation = event.asset_check_evaluation if event is not None else None
        if evaluation is not None and not evaluation.passed:
            return False
    return True


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
    names = schedule_names({cron: _recipes(keys) for cron, keys in selections.items()})
    return [_recipe_schedule(names[cron], cron, keys, job) for cron, keys in sorted(selections.items())], [job]


def _recipes(keys: Sequence[dg.AssetKey]) -> list[str]:
    return [key.path[1] for key in keys if key.path[0] == "variants"]


def _recipe_schedule(name: str, cron: str, keys: list[dg.AssetKey], job: "AssetJob") -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        cron_schedule=cron,
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Rebuilds and evaluates {', '.join(_recipes(keys))}, whose recipes have `schedule: {cron!r}`.",
    )
    def run_recipes() -> dg.RunRequest:
        return dg.RunRequest(asset_selection=keys)

    return run_recipes
