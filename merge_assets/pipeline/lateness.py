"""When it is time to look again whether an asset is still the same, and when that is late: the key ``freshness`` of a recipe.

The look is a run like any other. What has not changed is found in the store, keeps its version, and triggers nothing.
"""

import datetime

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from merge_assets.recipe import Recipe
from merge_assets.recipe.fields import seconds_of


def freshness_policy(recipe: Recipe) -> dg.FreshnessPolicy | None:
    """By which Dagster shows that a variant is late."""
    if recipe.freshness is None:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(seconds=seconds_of(recipe.freshness)))


def fresh_seconds(spec: dg.AssetSpec) -> float | None:
    """The window of an asset's policy."""
    policy = spec.freshness_policy
    return policy.fail_window.to_timedelta().total_seconds() if isinstance(policy, TimeWindowFreshnessPolicy) else None


def is_due(fresh: float | None, made_at: float, now: float) -> bool:
    """Whether three quarters of the time are over after which an asset is late."""
    return fresh is not None and now - made_at > 0.75 * fresh
