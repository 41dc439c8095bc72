"""How long a look of the reconciler takes with 1000 generated recipes, and whether memory stays flat over many.

    python benchmarks/reconciler.py [RECIPES] [LOOKS]

Every asset is recorded in a Dagster home of SQLite files, with as much metadata as real ones have. All is up to date, then one
base checkpoint changes. The target is 5 s a look, and no growth.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from benchmarks.definitions_load import SUITE, write_project
from merge_assets.pipeline.automation import Reconciler, tick
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reconciler.facts import Facts
from merge_assets.pipeline.reconciler.memory import Memory
from merge_assets.pipeline.variants import CHECKS
from merge_assets.pipeline.versions import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    INPUT_TAG_PREFIX,
    observation_event,
)
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace

TARGET_SECONDS = 5.0
PICTURE = "![plot](data:image/png;base64," + "iVBORw0KGgo" * 3000 + ")"


def record(instance: dg.DagsterInstance, reconciler: Reconciler) -> None:
    """Everything is made of what is there."""
    for base in reconciler.roster.bases:
        instance.report_runless_asset_event(observation_event(dg.AssetKey.from_user_string(base), f"{base} 1", {}))
    versions = {base: f"{base} 1" for base in reconciler.roster.bases}
    for asset in reconciler.roster.assets:
        versions[asset.key] = f"version of {asset.key}"
        key = dg.AssetKey.from_user_string(asset.key)
        tags = {
            DATA_VERSION_TAG: versions[asset.key],
            CODE_VERSION_TAG: asset.code or "",
            **{f"{INPUT_TAG_PREFIX}{name}": versions[name] for name in asset.inputs},
        }
        metadata = {
            "figures": {str(number): number * 1.5 for number in range(100)},
            "plot": dg.MetadataValue.md(PICTURE),
        }
        instance.report_runless_asset_event(dg.AssetMaterialization(key, tags=tags, metadata=metadata))
        if asset.key.startswith("variants/"):
            for name in CHECKS:
                instance.report_runless_asset_event(
                    dg.AssetCheckEvaluation(asset_key=key, check_name=name, passed=True, metadata={})
                )


def look(instance: dg.DagsterInstance, reconciler: Reconciler, cursor: str | None) -> tuple[float, dg.SensorResult]:
    """One tick and its seconds."""
    began = time.perf_counter()
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        result = tick(reconciler, context)
    return time.perf_counter() - began, result


def resident() -> float:
    """MB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> int:
    """Measure and compare with the target."""
    recipes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    looks = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        write_project(root, recipes)
        (root / "suites" / "other.yaml").write_text(SUITE)
        os.environ["DAGSTER_HOME"] = str(Path(folder, "home"))
        Path(folder, "home").mkdir()
        workspace = Workspace.open(Settings(root=root, default_suites=["demo", "other"]))
        with dg.DagsterInstance.local_temp(str(Path(folder, "home"))) as instance:
            return measured(instance, Reconciler(workspace, build_graph(workspace)), looks)


def measured(instance: dg.DagsterInstance, reconciler: Reconciler, looks: int) -> int:
    """All figures; 1 if one is not within its target."""
    began = time.perf_counter()
    assets = len(reconciler.roster.assets)
    print(f"{assets} assets, plan made in {time.perf_counter() - began:.2f} s")
    began = time.perf_counter()
    record(instance, reconciler)
    print(f"recorded in {time.perf_counter() - began:.0f} s")
    worst = 0.0
    seconds, result = look(instance, reconciler, None)
    print(f"first look {seconds:.2f} s: {result.skip_reason}")
    cursor, first = result.cursor, resident()
    times = []
    for _ in range(looks):
        seconds, result = look(instance, reconciler, cursor)
        times.append(seconds)
    worst = max(times)
    growth = resident() - first
    print(f"{looks} looks: {min(times):.2f} to {worst:.2f} s, memory {first:.0f} MB {growth:+.1f} MB")
    base = dg.AssetKey.from_user_string(reconciler.roster.bases[0])
    instance.report_runless_asset_event(observation_event(base, "changed", {}))
    seconds, result = look(instance, reconciler, cursor)
    worst = max(worst, seconds)
    asked = [len(request.asset_selection or ()) for request in result.run_requests or []]
    print(f"one base changed: {seconds:.2f} s, runs of {asked} assets")
    facts, _, _ = reconciler.look(instance, Memory.decode(cursor))
    empty = Facts(facts.now, facts.assets, {base: facts.records[base] for base in reconciler.roster.bases})
    began = time.perf_counter()
    memory = Memory.decode(Memory().encode())
    from merge_assets.pipeline.reconciler.decide import decide

    decide(empty, memory)
    print(f"deciding about all of it: {time.perf_counter() - began:.2f} s; cursor {len(cursor or '')} bytes")
    return int(worst > TARGET_SECONDS or growth > 30)


if __name__ == "__main__":
    sys.exit(main())
