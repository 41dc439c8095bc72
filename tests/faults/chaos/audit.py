"""What is true when all is quiet, found out without what the project says of itself, and held against it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from merge_assets.identity import analysis_line, importance_line, scores_line, variant_line
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.keys import LEADERBOARD
from merge_assets.pipeline.nodes import Graph
from merge_assets.pipeline.outcome import REUSED
from merge_assets.pipeline.versions import DATA_VERSION_TAG
from merge_assets.settings import load_settings
from merge_assets.store import ArtifactStore
from merge_assets.store.inventory import survey
from merge_assets.workspace import Workspace
from tests.faults.chaos.project import BAD_METHOD, BAD_NUMBERS, write_settings

SCORES = "scores.json"
_LOOK = 5.0
"""Seconds from the begin of a process to when it is seen, at most."""


@dataclass
class Row:
    """One question of the audit.

    Attributes:
        question: what had to be.
        faults: what was otherwise, each with what is known of it.
        found: what was looked at, in a few words.
        known: whether it could be looked at.
    """

    question: str
    faults: list[str] = field(default_factory=list)
    found: str = ""
    known: bool = True

    @property
    def answer(self) -> str:
        return "not known" if not self.known else "no" if self.faults else "yes"


def opened(root: Path) -> tuple[Workspace, Graph]:
    """A project as another machine opens it."""
    workspace = Workspace.open(load_settings(root / "merge-assets.toml"))
    return workspace, build_graph(workspace)


def lines_of(workspace: Workspace, graph: Graph) -> dict[dg.AssetKey, str]:
    """Every asset that is made, and its line of the store."""
    lines = {node.model.key: variant_line(node.recipe.name) for node in graph.variants}
    identify = workspace.names.identify
    lines |= {node.key: analysis_line(identify(node.model.reference)) for node in graph.analyses}
    lines |= {
        node.key: importance_line(identify(node.model.reference), node.kind, node.sample.label)
        for node in graph.importance
    }
    lines |= {node.key: scores_line(identify(node.model.reference), node.suite) for node in graph.scores}
    return lines


def computed_again(root: Path, settings: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """The same recipes, suites and checkpoints, built in a folder, a store and a home of their own."""
    fresh = root.with_name("fresh")
    for folder in ("recipes", "suites", "checkpoints"):
        shutil.copytree(root / folder, fresh / folder)
    own = {**settings, "store": "store", "cache_dir": "cache", "executor": "in_process"}
    del own["store_options"]
    write_settings(fresh, own)
    kept = {key: value for key, value in environment.items() if key not in ("DAGSTER_HOME", "CHAOS_WITNESS")}
    with (fresh / "build.log").open("wb") as log:
        command = [sys.executable, "-m", "merge_assets", "build", "--json"]
        subprocess.run(command, cwd=fresh, env=kept, stdout=log, stderr=log, check=False)
    return fresh


def right_bytes(root: Path, fresh: Path, instance: dg.DagsterInstance) -> list[Row]:
    """Whether the store and Dagster have of every asset what comes out when all is computed anew."""
    workspace, graph = opened(root)
    control, _ = opened(fresh)
    stored, told = Row("every asset is current, with the bytes of a fresh build"), Row("Dagster's record says the same")
    equal = Row("scores are equal, number by number")
    lines = lines_of(workspace, graph)
    for key, line in sorted(lines.items()):
        name = key.to_user_string()
        wanted, there = control.store.current(line), workspace.store.current(line)
        if key.path[-1] == BAD_NUMBERS or (wanted is None and there is None):
            continue
        if wanted is None or there is None or wanted.version != there.version:
            stored.faults.append(f"{name}: {_short(there)}, fresh {_short(wanted)}")
        elif key.path[0] == "scores":
            one, other = (_numbers(each.read_bytes(SCORES)) for each in (there, wanted))
            equal.faults += [] if one == other else [f"{name}: {one}, fresh {other}"]
        recorded = _recorded(instance, key)
        if wanted is not None and recorded != wanted.version:
            told.faults.append(f"{name}: {str(recorded)[:12]}, fresh {wanted.version[:12]}")
    stored.found = told.found = f"{len(lines)} assets"
    equal.found = f"{sum(key.path[0] == 'scores' for key in lines)} evaluations"
    if not any(control.store.current(line) for line in lines.values()):
        stored.faults.append(f"the fresh build made nothing: see {fresh / 'build.log'}")
    return [stored, told, equal]


def _short(artifact: Any) -> str:
    return "nothing" if artifact is None else artifact.version[:12]


def _numbers(raw: bytes) -> Any:
    content = json.loads(raw)
    tasks = content.get("tasks", content)
    rows = tasks if isinstance(tasks, list) else list(tasks.values())
    return sorted((str(row.get("task")), str(row.get("metric")), str(row.get("value"))) for row in rows)


def _recorded(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    event = instance.get_latest_materialization_event(key)
    made = event.asset_materialization if event is not None else None
    return (made.tags or {}).get(DATA_VERSION_TAG) if made is not None else None


def verified(root: Path, environment: Mapping[str, str]) -> Row:
    """Whether every byte of the store is that of its manifest."""
    row = Row("every byte of the store is that of its manifest")
    command = [sys.executable, "-m", "merge_assets", "store", "verify"]
    done = subprocess.run(command, cwd=root, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        row.faults.append((done.stdout + done.stderr)[-1500:])
    row.found = done.stdout.strip().splitlines()[-1][:120] if done.stdout.strip() else ""
    return row


def once(witness: Path, last_seen: Mapping[int, Sequence[tuple[float, float]]], began: float) -> list[Row]:
    """Whether nothing was completed twice, and no two processes were at the same at once."""
    events = [json.loads(line) for line in witness.read_text().splitlines()] if witness.exists() else []
    completed: Counter[tuple[str, str, str]] = Counter()
    for event in events:
        if event["event"] == "end":
            completed.update((event["what"], event["key"], piece) for piece in event["made"])
    twice = Counter((what, key) for (what, key, _), count in completed.items() if count > 1)
    again = Row("no key was completed twice", found=f"{len({(w, k) for w, k, _ in completed})} keys were computed")
    again.faults = [
        f"{what} {key[:24]}…: {count} pieces, {_ends(events, key, began)}" for (what, key), count in twice.items()
    ]
    beside = Row(
        "no two processes worked on one key at once", found=f"{sum(e['event'] == 'begin' for e in events)} attempts"
    )
    works = sorted(_works(events, last_seen))
    for number, (_, end, key, pid) in enumerate(works):
        for other_start, _, other_key, other in works[number + 1 :]:
            if other_key == key and other != pid and other_start < end - 1:
                both = end - other_start
                beside.faults.append(
                    f"{key[:40]}…: {pid} and {other}, {both:.0f} s, from second {other_start - began:.0f}"
                )
    return [again, beside]


def _ends(events: Sequence[Mapping[str, Any]], key: str, began: float) -> str:
    ends = [event for event in events if event["key"] == key and event["event"] == "end" and event["made"]]
    return ", ".join(f"{event['pid']} at second {event['at'] - began:.0f}" for event in ends)


def _works(
    events: Sequence[Mapping[str, Any]], last_seen: Mapping[int, Sequence[tuple[float, float]]]
) -> Iterator[tuple[float, float, str, int]]:
    """Begin, end, key and process of every piece of work; what was never ended lasts as long as its process was seen, which is
    not that of another process to which its number was given later."""
    for number, event in enumerate(events):
        if event["event"] != "begin":
            continue
        same = (e for e in events[number + 1 :] if e["pid"] == event["pid"] and e["key"] == event["key"])
        end = next(same, None)
        spans = [last for first, last in last_seen.get(event["pid"], ()) if first - _LOOK <= event["at"]]
        until = end["at"] if end is not None else max([event["at"], *spans[-1:]])
        yield event["at"], until, f"{event['what']} {event['key']}", event["pid"]


def taken_up(store: ArtifactStore) -> Row:
    """Whether what was committed when a build began was not computed again by it."""
    row = Row("no committed tensor was computed again")
    variants = [
        one.artifact.manifest
        for line, own in survey(store).versions.items()
        for one in own
        if line.startswith("variants/")
    ]
    keys = {m.version: [p.key for entry in m.files.values() for p in entry.pieces if p.key] for m in variants}
    for manifest in variants:
        details = manifest.details["report"]
        there = set().union(*(keys[m.version] for m in variants if m.provenance.ended < manifest.provenance.started))
        new = sum(key not in there for key in keys[manifest.version])
        made = details["tensors_computed"] + details["tensors_copied"]
        if made > new:
            row.faults.append(f"{manifest.line}@{manifest.version[:12]}: made {made} tensors, {new} were new")
    row.found = f"{len(variants)} versions of variants"
    return row


def left_behind(root: Path, environment: Mapping[str, str], uploads: int) -> list[Row]:
    """Whether nothing is being sent, and what killed builders left for the next one of the same goes when it is not wanted."""
    sent = Row("no upload is left in the bucket", [f"{uploads} multipart uploads"] if uploads else [])
    gone = Row("what killed builders left to go on with is dead, and `store gc` removes it")
    command = [sys.executable, "-m", "merge_assets", "store", "gc", "--older-than", "0m", "--yes", "--json"]
    done = subprocess.run(command, cwd=root, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        gone.faults.append(done.stdout[-500:] + done.stderr[-1000:])
    else:
        gone.found = f"{len(json.loads(done.stdout)['leftovers'])} removed"
    inventory = survey(opened(root)[0].store)
    gone.faults += [
        f"{one.line or 'here'} {one.name}: alive {one.alive}, {len(one.files)} files, {len(one.uploads)} uploads, "
        f"changed {one.changed:%H:%M:%S}"
        for one in inventory.unfinished
    ]
    gone.faults += [f"nobody reads {entry.path}" for entry in inventory.leftovers]
    gone.faults += [f"damaged: {path}" for path in inventory.damaged]
    return [sent, gone]


def in_status(root: Path, environment: Mapping[str, str]) -> Row:
    """Whether what a person must know is in ``merge-assets status``."""
    row = Row(f"status names what a person must know: {BAD_METHOD}, {BAD_NUMBERS}")
    command = [sys.executable, "-m", "merge_assets", "status", "--json"]
    done = subprocess.run(command, cwd=root, env=dict(environment), capture_output=True, text=True, check=False)
    if "No such command" in done.stderr:
        return Row(row.question, found="there is no such command yet", known=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        row.faults.append(f"no JSON: {done.stdout[-200:]} {done.stderr[-300:]}")
        return row
    (root.parent / "status.json").write_text(done.stdout)
    text = json.dumps(found)
    row.faults += [f"{name} is not named" for name in (BAD_METHOD, BAD_NUMBERS) if name not in text]
    return row


def behind(instance: dg.DagsterInstance, root: Path) -> list[str]:
    """Assets that Dagster's record says are missing or made of other inputs than are there now, or that are running."""
    from merge_assets.pipeline.assemble import build_definitions

    workspace, graph = opened(root)
    specs = {spec.key: spec for spec in build_definitions(workspace, graph).resolve_all_asset_specs()}
    versions: dict[dg.AssetKey, Any] = {}
    for key in specs:
        record = instance.get_latest_data_version_record(key)
        entry = record.event_log_entry if record is not None else None
        event = (entry.asset_materialization or entry.asset_observation) if entry is not None else None
        versions[key] = (event.tags or {}) if event is not None else {}
    found = []
    for key in [*lines_of(workspace, graph), *([LEADERBOARD] if graph.scores else [])]:
        own = versions[key]
        inputs = {dep.asset_key: versions.get(dep.asset_key, {}).get(DATA_VERSION_TAG) for dep in specs[key].deps}
        same = all(
            own.get(f"dagster/input_data_version/{dep.to_user_string()}") == known for dep, known in inputs.items()
        )
        if key.path[-1] != BAD_NUMBERS and (own.get("dagster/code_version") != specs[key].code_version or not same):
            found.append(key.to_user_string())
    return found


def reused_runs(instance: dg.DagsterInstance) -> tuple[int, int, dict[str, int]]:
    """How many runs there were, how many of them made nothing new, and how often each outcome was."""
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    records = instance.get_run_records()
    for record in records:
        run_id = record.dagster_run.run_id
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            made = entry.asset_materialization
            outcome = made.metadata.get("outcome") if made is not None else None
            outcomes[run_id][str(getattr(outcome, "value", None))] += 1
    idle = sum(1 for counts in outcomes.values() if set(counts) == {REUSED})
    return len(records), idle, dict(sum(outcomes.values(), Counter()))
