"""What makes assets without a hand: one sensor that looks at what there should be, and one schedule per cron of the recipes.

The sensor is level-triggered: it asks what is out of date, not what changed, so that nothing that happens while nobody looks is
lost. What it decides and why is in :mod:`merge_assets.pipeline.reconciler`.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG, PRIORITY_TAG

from merge_assets.errors import StoreError
from merge_assets.pipeline.keys import LEADERBOARD, schedule_names
from merge_assets.pipeline.nodes import Graph
from merge_assets.pipeline.process import PROCESS_TAG, is_gone
from merge_assets.pipeline.reasons import REASON_TAG, reason_of_run
from merge_assets.pipeline.reconciler import words
from merge_assets.pipeline.reconciler.decide import Decision, decide, requests
from merge_assets.pipeline.reconciler.facts import AUTOMATION, Facts
from merge_assets.pipeline.reconciler.learn import asked_for, learn
from merge_assets.pipeline.reconciler.memory import Memory
from merge_assets.pipeline.reconciler.read import TRIGGER_TAG, Reader
from merge_assets.pipeline.reconciler.roster import Roster, roster_of
from merge_assets.pipeline.steps import FOLLOW_TAG
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

AUTOMATION_SENSOR = "automation"
SCHEDULED_JOB = "scheduled_recipes"
# Together with the look at the Hub, a new revision is answered within a minute.
INTERVAL_SECONDS = 30
PRIORITY = "-10"
"""Of the runs of automation; those of people have 0 and start first."""


class Reconciler:
    """Looks at a workspace and an instance, and says what is to be done; what it takes for it is made at the first look."""

    def __init__(self, workspace: Workspace, graph: Graph) -> None:
        self._workspace = workspace
        self.graph = graph

    @functools.cached_property
    def roster(self) -> Roster:
        return roster_of(self._workspace, self.graph)

    @functools.cached_property
    def _reader(self) -> Reader:
        return Reader(self.roster)

    def look(self, instance: dg.DagsterInstance, memory: Memory) -> tuple[Facts, Memory, tuple[Decision, ...]]:
        """The facts, what is remembered with them, and what is decided."""
        facts = self._reader.facts(instance, memory)
        facts = replace(facts, let_go=self._let_go(facts))
        learned = learn(memory, facts)
        return facts, learned, decide(facts, learned)

    def _let_go(self, facts: Facts) -> frozenset[str]:
        """Variants that something is to be made of and whose bytes went by `keep`: of the others nobody needs to know."""
        found: set[str] = set()
        for asset in reversed(facts.assets):  # what is made of others comes before them
            inputs = [key for key in asset.inputs if key in self.roster.kept and key in facts.records]
            if inputs and (asset.key in found or facts.stale(asset)):
                found |= {key for key in inputs if self._is_gone(key, facts.records[key].data_version)}
        return frozenset(found)

    def _is_gone(self, key: str, version: str) -> bool:
        try:
            return self._workspace.store.get(self.roster.kept[key], version) is None
        except StoreError:  # a run that cannot reach it says so
            return False


def automation_sensor(reconciler: Reconciler) -> dg.SensorDefinition:
    """Asks for what is missing or out of date."""
    keys = [*reconciler.graph.automated_keys(), *([LEADERBOARD] if reconciler.graph.scores else [])]

    @dg.sensor(
        name=AUTOMATION_SENSOR,
        asset_selection=dg.AssetSelection.assets(*keys),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description="Asks for every asset that is missing or out of date and can be made now; says why, and why not.",
    )
    def automation(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return tick(reconciler, context)

    return automation


def tick(reconciler: Reconciler, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One look: the runs that are asked for, or why there are none."""
    instance = context.instance
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        if is_gone(run.tags.get(PROCESS_TAG, "")):
            instance.report_run_failed(run, "the process of this run was killed")
    facts, memory, decisions = reconciler.look(instance, Memory.decode(context.cursor))
    wanted = requests(decisions)
    memory = asked_for(memory, facts, frozenset(each.key for batch in wanted.values() for each in batch))
    said = words.lines(decisions)
    if memory.told != (told := words.digest(said)):  # each tick with a log is a file for ever
        for line in said:
            context.log.info(line)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                asset_selection=[dg.AssetKey.from_user_string(each.key) for each in batch],
                tags={
                    TRIGGER_TAG: AUTOMATION,
                    REASON_TAG: reason_of_run({each.key: each.reason for each in batch}),
                    FOLLOW_TAG: "true",
                    PRIORITY_TAG: PRIORITY,
                    MAX_RETRIES_TAG: "0",  # what failed is asked for again by the next looks
                },
            )
            for batch in wanted.values()
        ],
        skip_reason=None if wanted else dg.SkipReason(words.summary(decisions)),
        cursor=memory.saying(told).encode(),
    )


def recipe_schedules(
    selections: dict[str, list[dg.AssetKey]],
    reconciler: Reconciler,
    gone: Sequence[dg.AssetKey] = (),
) -> "tuple[list[dg.ScheduleDefinition], list[AssetJob]]":
    """One schedule per distinct cron string, all on one job.

    A job per recipe would make the code location's snapshot several times larger.

    Args:
        selections: assets to run, by cron string.
        reconciler: knows which of them are up to date or under way.
        gone: assets that were there lately; runs of them can be repeated.
    """
    if not selections:
        return [], []
    every = sorted({key for keys in selections.values() for key in keys})
    job = dg.define_asset_job(
        SCHEDULED_JOB,
        selection=dg.AssetSelection.assets(*every, *gone),
        description="Searches and variants whose recipes have a schedule, with their scores and the leaderboard.",
        run_tags={TRIGGER_TAG: "schedule"},
    )
    names = schedule_names({cron: _recipes(keys) for cron, keys in selections.items()})
    return [_recipe_schedule(names[cron], cron, keys, job, reconciler) for cron, keys in sorted(selections.items())], [
        job
    ]


def _recipes(keys: Sequence[dg.AssetKey]) -> list[str]:
    return list(dict.fromkeys(key.path[1] for key in keys if key.path[0] in ("search", "variants")))


def _recipe_schedule(
    name: str, cron: str, keys: list[dg.AssetKey], job: "AssetJob", reconciler: Reconciler
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        cron_schedule=cron,
        job=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Makes {', '.join(_recipes(keys))}, whose recipes have `schedule: {cron!r}`, as far as they are out of "
        "date and not under way.",
    )
    def run_recipes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        _, _, decisions = reconciler.look(context.instance, Memory())
        names = {key.to_user_string() for key in keys}
        wanted: set[str] = set()
        for asset, each in zip(reconciler.roster.assets, decisions, strict=True):
            idle = each.key in names and each.state not in ("running", "queued")
            if idle and (each.stale or wanted & set(asset.inputs)):
                wanted.add(each.key)
        if not wanted:
            return dg.SkipReason("all of it is up to date or under way")
        return dg.RunRequest(asset_selection=[key for key in keys if key.to_user_string() in wanted])

    return run_recipes
