"""What Dagster knows about the versions of assets, and which of them are out of date.

Read from the tags of the last events only, so that one query answers for a thousand assets without a web server.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from merge_assets import freshness
from merge_assets.freshness import Basis

DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
INPUT_TAG_PREFIX = "dagster/input_data_version/"

FAILED, MAY_PASS = "failed_tasks", "tried_again"
"""Names of metadata: see :class:`Recorded`."""

_KEYS_OF_A_QUERY = 1000
"""SQLite takes a bounded number of them."""

_CODE_CHANGED = {
    "variants": "the recipe, its method or the numerics version changed",
    "search": "the recipe, its search or a suite changed",
    "scores": "the suite, lm-eval or the evaluation version changed",
    "importance": "the text, its settings or the analysis version changed",
    "snr": "the modules asked for or the analysis version changed",
}


@dataclass(frozen=True)
class Recorded:
    """The last materialisation or observation of an asset.

    Attributes:
        data_version: content fingerprint.
        code_version: ``None`` for an observation.
        inputs: data version of each input that was used, by key in user form (``base/org/name``).
        revision: Hub commit of an observed base checkpoint.
        outcome: for a built asset, whether it was computed or found in the store.
        run_id: of the run that recorded it; empty for what was recorded outside any.
        at: when, in seconds since 1970.
        failed: what of it could not be made, and why.
        may_pass: whether that may be made the next time although nothing changes.
    """

    data_version: str
    code_version: str | None
    inputs: Mapping[str, str]
    revision: str | None = None
    outcome: str | None = None
    run_id: str = field(default="", compare=False)
    at: float = field(default=0.0, compare=False)
    failed: str = ""
    may_pass: bool = False


def recorded(instance: dg.DagsterInstance, key: dg.AssetKey) -> Recorded | None:
    """What the instance last recorded for ``key``; ``None`` if there is nothing."""
    record = instance.get_latest_data_version_record(key)
    return None if record is None else _read(record.event_log_entry)


def recorded_all(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, Recorded | None]:
    """The same for many assets, with a query for each thousand that are built, and one for each base checkpoint."""
    wanted = list(keys)
    built: dict[dg.AssetKey, dg.EventLogEntry | None] = {}
    for start in range(0, len(wanted), _KEYS_OF_A_QUERY):
        for record in instance.get_asset_records(wanted[start : start + _KEYS_OF_A_QUERY]):
            built[record.asset_entry.asset_key] = record.asset_entry.last_materialization
    return {key: _read(entry) if (entry := built.get(key)) else _observed(instance, key) for key in wanted}


def _observed(instance: dg.DagsterInstance, key: dg.AssetKey) -> Recorded | None:
    """What was observed of a base checkpoint. Of what is built, observations tell progress, and no versions."""
    if key.path[0] != "base":
        return None
    record = instance.get_latest_data_version_record(key, is_source=True)
    return None if record is None else _read(record.event_log_entry)


def _read(entry: dg.EventLogEntry) -> Recorded | None:
    event = entry.asset_materialization or entry.asset_observation
    tags = (event.tags if event is not None else None) or {}
    version = tags.get(DATA_VERSION_TAG)
    if version is None:
        return None
    return Recorded(
        data_version=version,
        code_version=tags.get(CODE_VERSION_TAG),
        inputs={
            name.removeprefix(INPUT_TAG_PREFIX): value
            for name, value in tags.items()
            if name.startswith(INPUT_TAG_PREFIX)
        },
        revision=_text(event, "revision"),
        outcome=_text(event, "outcome"),
        run_id=entry.run_id,
        at=entry.timestamp,
        failed=_text(event, FAILED) or "",
        may_pass=_text(event, MAY_PASS) is not None,
    )


def last_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, dg.MetadataValue[Any]]:
    """The metadata of the event that :func:`recorded` reads; empty if there is none."""
    record = instance.get_latest_data_version_record(key)
    if record is None:
        return {}
    event = record.event_log_entry.asset_materialization or record.event_log_entry.asset_observation
    return event.metadata if event is not None else {}


def _text(event: dg.AssetMaterialization | dg.AssetObservation | None, name: str) -> str | None:
    value = event.metadata.get(name) if event is not None else None
    return value.value if isinstance(value, dg.TextMetadataValue) else None


def report_observation(
    instance: dg.DagsterInstance, key: dg.AssetKey, version: str, metadata: Mapping[str, Any]
) -> None:
    """Record an observation outside any run."""
    instance.report_runless_asset_event(observation_event(key, version, metadata))


def observation_event(key: dg.AssetKey, version: str, metadata: Mapping[str, Any]) -> dg.AssetObservation:
    """An observation that carries a data version."""
    return dg.AssetObservation(asset_key=key, metadata=dict(metadata), tags={DATA_VERSION_TAG: version})


def stale_reason(spec: dg.AssetSpec, known: Mapping[dg.AssetKey, Recorded | None]) -> str | None:
    """Why an asset is out of date with respect to its direct inputs; ``None`` if it is not.

    Args:
        spec: the asset as it is defined now.
        known: what is recorded for the asset and its inputs.
    """
    inputs = {
        key.to_user_string(): upstream.data_version if (upstream := known.get(key)) is not None else None
        for key in sorted({dep.asset_key for dep in spec.deps})
    }
    return basis_reason(spec.key.path[0], known.get(spec.key), spec.code_version, inputs)


def basis_reason(kind: str, own: Recorded | None, code: str | None, inputs: Mapping[str, str | None]) -> str | None:
    """The same, of plain data.

    Args:
        kind: first part of the asset's key.
        own: what is recorded for the asset.
        code: its code version as it is defined now.
        inputs: data versions of its inputs that are recorded now, by key in user form.
    """
    changed = freshness.stale_reason(
        None if own is None else Basis(own.code_version, own.inputs),
        Basis(code, inputs),
        _CODE_CHANGED.get(kind, "its definition changed"),
    )
    return changed or (own.failed if own is not None else None) or None


def out_of_date(
    specs: Sequence[dg.AssetSpec],
    known: Mapping[dg.AssetKey, Recorded | None],
    lost: Collection[dg.AssetKey] = (),
) -> dict[dg.AssetKey, str]:
    """The specs that are out of date, or made from one that is, with the reason.

    Args:
        specs: in topological order.
        known: what is recorded for them and their inputs.
        lost: those whose artifact the store has no more.
    """
    reasons: dict[dg.AssetKey, str] = {}
    there = {**known, **dict.fromkeys(lost)}
    for spec in specs:
        reason = "its artifact is no longer in the store" if spec.key in lost else stale_reason(spec, there)
        if reason is None:
            above = next((dep.asset_key for dep in spec.deps if dep.asset_key in reasons), None)
            reason = None if above is None else f"{above.to_user_string()} is rebuilt"
        if reason is not None:
            reasons[spec.key] = reason
    return reasons


def topological(specs: Iterable[dg.AssetSpec]) -> list[dg.AssetSpec]:
    """Inputs before what is made of them; otherwise by key."""
    by_key = {spec.key: spec for spec in specs}
    done: dict[dg.AssetKey, dg.AssetSpec] = {}
    for start in sorted(by_key):
        stack = [start]
        while stack:
            key = stack[-1]
            if key in done:
                stack.pop()
                continue
            waiting = [d.asset_key for d in by_key[key].deps if d.asset_key in by_key and d.asset_key not in done]
            if waiting:
                stack.extend(sorted(waiting, reverse=True))
            else:
                done[key] = by_key[key]
                stack.pop()
    return list(done.values())
