"""Assets of which there were results and is no definition any more: they say so, as Dagster shows them as they were."""

import json
from collections.abc import Collection

import dagster as dg

from merge_assets.pipeline.keys import broken_key

GONE_SENSOR = "gone_assets"
SENSOR_SECONDS = 60
STATE = "gone"

_OF_OURS = {
    "base": "no recipe uses this checkpoint any more",
    "snr": "no recipe asks for this analysis any more",
    "importance": "no recipe asks for this analysis any more",
    "search": "there is no search of this name any more",
    "variants": "there is no recipe of this name any more",
    "scores": "no recipe asks for these scores any more",
    "leaderboard": "nothing is evaluated any more",
}


def gone_sensor(defined: Collection[dg.AssetKey]) -> dg.SensorDefinition:
    """Looks for results whose asset is not among ``defined``."""

    @dg.sensor(
        name=GONE_SENSOR,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Says on the pages of assets whose recipe, suite or model is gone that it is.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return tell_of_gone(context.instance, defined, context.cursor)

    return watch


def tell_of_gone(instance: dg.DagsterInstance, defined: Collection[dg.AssetKey], cursor: str | None) -> dg.SensorResult:
    """One tick: an observation for each that is newly gone; the cursor has those of which it was told."""
    told = set(json.loads(cursor)) if cursor else set()
    known = {key.to_user_string(): key for key in instance.get_asset_keys() if key.path[0] in _OF_OURS}
    gone = {name: key for name, key in known.items() if key not in defined}
    events = [_observation(key, defined) for name, key in sorted(gone.items()) if name not in told]
    skip = (
        None
        if events
        else dg.SkipReason(f"{len(gone)} assets are gone, all of them told of" if gone else "none is gone")
    )
    return dg.SensorResult(asset_events=events, skip_reason=skip, cursor=json.dumps(sorted(gone)))


def _observation(key: dg.AssetKey, defined: Collection[dg.AssetKey]) -> dg.AssetObservation:
    why = _OF_OURS[key.path[0]]
    if key.path[0] == "variants" and (broken := broken_key(key.path[1])) in defined:
        why = f"its recipe is broken, see {broken.to_user_string()}"
    return dg.AssetObservation(
        asset_key=key,
        description=f"This asset is gone: {why}.",
        metadata={
            "state": STATE,
            "why": why,
            "what_is_left": "what was made stays in the store until `merge-assets store gc`; a recipe that comes back finds it",
        },
    )
