"""Uploads that a killed builder left in the bucket, and nobody goes on with any more, are aborted."""

import dagster as dg

from merge_assets.errors import StoreError
from merge_assets.pipeline.automation import Reconciler
from merge_assets.pipeline.reconciler.memory import Memory
from merge_assets.store.superseded import clear_superseded
from merge_assets.workspace import Workspace

UNFINISHED_SENSOR = "unfinished_uploads"
SENSOR_SECONDS = 120


def build_unfinished(workspace: Workspace, reconciler: Reconciler) -> list[dg.SensorDefinition]:
    """The sensor, for a store to which files are sent in parts."""
    if workspace.store.place.parts is None:
        return []

    @dg.sensor(
        name=UNFINISHED_SENSOR,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Aborts uploads of builds that were killed, once the variant that they were of is up to date.",
    )
    def clear(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return clear_unfinished(workspace, reconciler, context.instance)

    return [clear]


def clear_unfinished(workspace: Workspace, reconciler: Reconciler, instance: dg.DagsterInstance) -> dg.SkipReason:
    """One look; says what was removed."""

    def settled() -> set[str]:
        """Lines of variants that are up to date. Those of recipes that went are not among them: the recipe may come back."""
        _, _, decisions = reconciler.look(instance, Memory())
        return {each.key for each in decisions if each.state == "current" and not each.soon}

    try:
        removed = clear_superseded(workspace.store, settled)
    except (StoreError, OSError) as error:  # the bucket may not be there yet
        return dg.SkipReason(f"uploads cannot be listed or removed: {error}")
    return dg.SkipReason(
        "; ".join(f"removed {what}" for what in removed) or "nothing is left of builds that nobody wants"
    )
