"""What is done about every asset now, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from merge_assets.pipeline.reconciler.facts import AUTOMATION, Asset, Facts, KnownRun
from merge_assets.pipeline.reconciler.memory import Attempt, Memory

State = Literal["current", "refused", "running", "queued", "requested", "waiting", "failed", "cancelled", "by hand"]
"""Up to date; the same, but a check that others wait for failed; in a run; asked for now; waiting for an input or its turn;
failed, and tried again later if ever; cancelled by a person; out of date, and automation may not build it."""

SAYS: Mapping[State, str] = {
    "current": "is there",
    "refused": "is refused",
    "running": "is running",
    "queued": "is queued",
    "requested": "is asked for",
    "waiting": "waits",
    "failed": "failed",
    "cancelled": "was cancelled",
    "by hand": "is left to people",
}
"""The states as predicates."""

RUN_ASSETS = 60
"""Assets that are asked for in one run: Dagster writes down four events for each before the first step begins."""
RUNS = 4
"""Runs of automation that are active or queued at once; what does not fit has its turn later."""
COLLECT_SECONDS = 15 * 60.0
"""Longest that what collects waits for inputs that are being made, once there is something to collect."""


@dataclass(frozen=True)
class Decision:
    """What is done about one asset.

    Attributes:
        key: of the asset.
        state: see :data:`State`.
        reason: why, in words.
        stale: whether it is to be made, by whomever and whenever.
        run: that it is in.
        attempt: the last one that made nothing of what is wanted now.
        batch: number of the run in which it is asked for now.
        confirms: it is asked for only to look whether it is still the same.
        soon: it may soon be another, for what is under way: what is made of it waits.
    """

    key: str
    state: State
    reason: str
    stale: bool
    run: KnownRun | None = None
    attempt: Attempt | None = None
    batch: int | None = None
    soon: bool = False
    confirms: bool = False


def decide(facts: Facts, memory: Memory) -> tuple[Decision, ...]:
    """A decision about each asset, in the order of the facts; ``memory`` has learned from the facts."""
    found: dict[str, Decision] = {}
    busy = {key: run for run in facts.runs for key in run.open()}
    for asset in facts.assets:
        found[asset.key] = _decide(asset, facts, memory, busy, found)
    chosen = [asset for asset in facts.assets if found[asset.key].state == "requested"]
    active = sum(run.is_active and run.trigger == AUTOMATION for run in facts.runs)
    batches = _batches(chosen, facts, max(0, RUNS - active))
    for asset in chosen:
        batch = batches.get(asset.key)
        if batch is not None:
            found[asset.key] = replace(found[asset.key], batch=batch)
        elif asset.collects and batches:
            why = "it collects what is made first"
            found[asset.key] = replace(found[asset.key], state="waiting", reason=why, soon=True)
        else:
            why = f"its turn comes after runs of automation that are under way; {found[asset.key].reason}"
            found[asset.key] = replace(found[asset.key], state="waiting", reason=why, soon=True)
    return tuple(found[asset.key] for asset in facts.assets)


def requests(decisions: Iterable[Decision]) -> dict[int, list[Decision]]:
    """What is asked for now, by run, in topological order."""
    runs: dict[int, list[Decision]] = {}
    for each in decisions:
        if each.batch is not None:
            runs.setdefault(each.batch, []).append(each)
    return runs


def _decide(
    asset: Asset, facts: Facts, memory: Memory, busy: Mapping[str, KnownRun], found: Mapping[str, Decision]
) -> Decision:
    reason = facts.stale(asset)
    above = next((key for key in asset.inputs if key in found and _is_rebuilt(found[key])), None)
    attempt = memory.attempts.get(asset.key)
    if attempt is not None and attempt.wanted != facts.wanted(asset):
        attempt = None
    due = (
        "nobody looked for long whether it is still the same"
        if not reason and not above and facts.is_due(asset)
        else ""
    )
    why = reason or (f"{above} is rebuilt" if above else due)

    def so(state: State, text: str, *, run: KnownRun | None = None, soon: bool = False) -> Decision:
        return Decision(asset.key, state, text, bool(reason), run, attempt, soon=soon, confirms=bool(due))

    if run := busy.get(asset.key):
        return so("running" if asset.key in run.steps else "queued", f"in a run that {run.trigger} asked for", run=run)
    moving = next((key for key in asset.inputs if key in busy or (key in found and found[key].soon)), None)
    if not why:
        refused = facts.refused.get(asset.key)
        if refused:
            return so("refused", f"its check {', '.join(refused)} failed")
        return so("current", "up to date", soon=moving is not None)
    if attempt is not None and attempt.problem is None:
        return so("cancelled", "a person cancelled it; it is made when an input changes or a person asks")
    if attempt is not None and attempt.problem is not None and (reason or due):
        later = attempt.next_at is not None and attempt.next_at > facts.now
        if later or not asset.automated:
            return so("failed", attempt.problem.message)
    if not asset.automated:
        return so("by hand", why) if reason else so("current", "up to date")
    if (waits := _untold(asset, facts, found)) is not None:
        return so("waiting", waits, soon=True)
    missing = [text for key in asset.inputs if (text := _missing(key, facts, found)) is not None]
    if missing and (not asset.collects or len(missing) == len(asset.inputs)):
        return so("waiting", missing[0], soon=moving is not None)
    if moving is not None and not _overdue(asset, facts):
        return so(
            "waiting", f"{moving} is being made" if moving in busy else f"{moving} may soon be another", soon=True
        )
    return so("requested", why)


def _is_rebuilt(decision: Decision) -> bool:
    return decision.state == "requested" and not decision.confirms


def _untold(asset: Asset, facts: Facts, found: Mapping[str, Decision]) -> str | None:
    """Why it is not known what an asset is to be; ``None`` if it is."""
    if asset.told_by is None:
        return None
    key, version = asset.told_by
    if key in found and found[key].state == "requested":
        return f"{key} is made first, and says what this is"
    record = facts.records.get(key)
    if record is not None and record.data_version != version:
        return f"{key} says that this is another one, which is soon read"
    return None


def _missing(key: str, facts: Facts, found: Mapping[str, Decision]) -> str | None:
    """Why an input cannot be used; ``None`` if it can, or is being made."""
    decision = found.get(key)
    if decision is not None and decision.state == "requested":
        return None
    if key not in facts.records or key in facts.let_go:
        if decision is None:
            return f"{key} was never observed"
        if decision.state in ("running", "queued"):
            return f"{key} is being made"
        return f"{key} {SAYS[decision.state]}: {decision.reason}"
    if refused := facts.refused.get(key):
        return f"{key}: its check {', '.join(refused)} failed"
    return None


def _overdue(asset: Asset, facts: Facts) -> bool:
    """Whether what collects has waited long enough."""
    if not asset.collects:
        return False
    own = facts.records.get(asset.key)
    used = own.inputs if own is not None else {}
    fresh = [
        record.at
        for key in asset.inputs
        if (record := facts.records.get(key)) is not None and used.get(key) != record.data_version
    ]
    return bool(fresh) and facts.now - min(fresh) > COLLECT_SECONDS


def _batches(chosen: Sequence[Asset], facts: Facts, runs: int) -> dict[str, int]:
    """The number of a run for each asset that is asked for now.

    What is made of each other is in one run. What was made longest ago, or never, comes first, so that everything has its
    turn. What collects comes with the rest if that is all there is to make, else after it.
    """
    made = [asset for asset in chosen if not asset.collects]
    order = {asset.key: index for index, asset in enumerate(chosen)}
    groups = _groups(made)
    groups.sort(key=lambda group: (min(_age(key, facts) for key in group), order[group[0]]))
    numbers: dict[str, int] = {}
    room: list[int] = []
    whole = True
    for group in groups:
        part = group[:RUN_ASSETS]  # the rest of a larger one has its turn when this is made
        whole = whole and len(part) == len(group)
        place = next((number for number, free in enumerate(room) if free >= len(part)), None)
        if place is None and len(room) < runs:
            place = len(room)
            room.append(RUN_ASSETS)
        if place is None:
            whole = False
            continue
        room[place] -= len(part)
        numbers.update(dict.fromkeys(part, place))
    for asset in chosen:
        if asset.collects and runs and ((whole and len(room) <= 1) or _overdue(asset, facts)):
            numbers[asset.key] = 0
    return numbers


def _age(key: str, facts: Facts) -> float:
    record = facts.records.get(key)
    return record.at if record is not None else 0.0


def _groups(assets: Sequence[Asset]) -> list[list[str]]:
    """Assets that are made of each other, together, each list in topological order."""
    leader = {asset.key: asset.key for asset in assets}

    def find(key: str) -> str:
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for asset in assets:
        for key in asset.inputs:
            if key in leader:
                leader[find(key)] = find(asset.key)
    groups: dict[str, list[str]] = {}
    for asset in assets:
        groups.setdefault(find(asset.key), []).append(asset.key)
    return list(groups.values())
