"""Why an asset is made now, as the first lines of its metadata and the tags of its run say it."""

from collections.abc import Mapping

import dagster as dg

from merge_assets.pipeline.outcome import BUILT, RESUMED
from merge_assets.pipeline.versions import recorded_all, stale_reason

AGAIN_TAG = "merge_assets/again"
"""Tag of a run: what of it is made again although the store has it, :data:`EVERYTHING` or :data:`MEASUREMENTS`."""

EVERYTHING = "everything"
MEASUREMENTS = "measurements"
"""Analyses and scores."""

REASON_TAG = "why"
"""Tag of a run: why it is there, for people who look at the list of runs."""

ASKED = "asked for, although nothing that it is made of has changed"
AGAIN = {
    EVERYTHING: "everything was to be made again",
    MEASUREMENTS: "what is measured was to be measured again",
}
_LONGEST = 300

LOST = "the store no longer had it"


def reason(instance: dg.DagsterInstance, run_tags: Mapping[str, str], spec: dg.AssetSpec) -> str:
    """Why an asset is made, from what is recorded of it and its inputs before it is."""
    known = recorded_all(instance, {spec.key, *(dep.asset_key for dep in spec.deps)})
    return stale_reason(spec, known) or AGAIN.get(run_tags.get(AGAIN_TAG, ""), ASKED)


def reason_of_run(reasons: Mapping[str, str]) -> str:
    """Why a run is there, from the reasons of its assets in build order: the first, which others follow from."""
    (key, why), *others = reasons.items()
    return f"{key}: {why}"[:_LONGEST] + (f" (and {len(others)} more)" if others else "")


def with_reason(metadata: Mapping[str, object], why: str) -> dict[str, object]:
    """The metadata of what was made, with what became of it and why at the top.

    Args:
        metadata: has ``outcome``.
        why: of :func:`reason`; what had to be built although nothing had changed was not where it was recorded to be.
    """
    outcome = metadata["outcome"]
    lost = why == ASKED and outcome in (BUILT, RESUMED)
    return {"outcome": outcome, "reason": LOST if lost else why, **metadata}
