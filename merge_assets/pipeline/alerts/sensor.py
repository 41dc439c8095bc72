"""The sensor that tells people."""

import time

import dagster as dg

from merge_assets.pipeline.alerts.causes import Cause, Told, causes
from merge_assets.pipeline.alerts.send import send, ways
from merge_assets.pipeline.automation import Reconciler
from merge_assets.pipeline.status import status_of
from merge_assets.workspace import Workspace

ALERT_SENSOR = "alerts"
INTERVAL_SECONDS = 60
TICK_SECONDS = 40.0
"""After which further messages wait for the next tick: Dagster ends a tick after 60 s."""


def build_alerts(workspace: Workspace, reconciler: Reconciler) -> list[dg.SensorDefinition]:
    """The sensor; none if nobody is to be told."""
    alerts = workspace.settings.alerts
    if not alerts.any:
        return []

    @dg.sensor(
        name=ALERT_SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people by webhook, Slack or e-mail what needs them: each cause once, for as long as it lasts.",
    )
    def tell(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return tick(workspace, reconciler, context)

    return [tell]


def tick(workspace: Workspace, reconciler: Reconciler, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Tell what is news; what did not arrive is told again at the next tick."""
    deadline = time.monotonic() + TICK_SECONDS
    now = causes(status_of(context.instance, reconciler.graph, reconciler))
    before = Told.decode(context.cursor)
    told: list[tuple[str, Cause]] = []
    failed = 0
    for name, way in ways(workspace.settings.alerts).items():
        for cause in now:
            if before.knows(name, cause) or time.monotonic() > deadline:
                continue
            if problem := send(way, workspace.settings.root.name, cause):
                context.log.error(f"{name}: not told of {cause.title}: {problem}")
                failed += 1
                break  # the next one would most likely fail, too, after as long
            context.log.info(f"{name}: told of {cause.title}")
            told.append((name, cause))
    after = before.after(now, told, time.time())
    says = f"{len(now)} causes need a person; {len(told)} messages were sent, {failed} failed"
    return dg.SensorResult(skip_reason=dg.SkipReason(says), cursor=after.encode())
