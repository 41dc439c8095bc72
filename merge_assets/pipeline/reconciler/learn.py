"""What runs that ended, and steps of runs that go on, leave to be remembered."""

from __future__ import annotations

from dataclasses import replace

from merge_assets.pipeline.reconciler.facts import Asset, Facts, Fault, KnownRun, KnownStep, Wanted
from merge_assets.pipeline.reconciler.memory import LONGEST_MESSAGE, Attempt, Memory

_UNSETTLED = Fault(
    "unsettled", "it was made, and is out of date with respect to the same inputs all the same", may_pass=True
)
"""May pass: an input may have changed and changed back meanwhile."""
_DIED = Fault("died", "its process or its run ended before it did", may_pass=True)


def learn(memory: Memory, facts: Facts) -> Memory:
    """What is remembered after a look at ``facts``; the same facts teach nothing twice."""
    assets = {asset.key: asset for asset in facts.assets}
    attempts = dict(memory.attempts)
    for run in sorted(facts.runs, key=lambda run: (run.ended or facts.now, run.id)):
        for key in sorted(run.keys & assets.keys()):
            attempt = _attempt(assets[key], run, facts, memory, attempts.get(key))
            if attempt is not None:
                attempts[key] = attempt
    busy = {key for run in facts.runs for key in run.open()}
    asked = {key: memory.asked.get(key) or facts.wanted(asset) for key, asset in assets.items() if key in busy}
    # Also what is not wanted now: it says which runs have been learned from, and may be wanted again.
    kept = {key: attempt for key, attempt in attempts.items() if key in assets and not _is_over(attempt, key, facts)}
    ended = max((run.ended for run in facts.runs if run.ended is not None), default=0.0)
    return replace(memory, until=max(memory.until, ended), attempts=kept, asked=asked)


def asked_for(memory: Memory, facts: Facts, keys: frozenset[str]) -> Memory:
    """The same after runs for ``keys`` were asked for."""
    wanted = {asset.key: facts.wanted(asset) for asset in facts.assets if asset.key in keys}
    return replace(memory, asked={**memory.asked, **wanted})


def _attempt(asset: Asset, run: KnownRun, facts: Facts, memory: Memory, before: Attempt | None) -> Attempt | None:
    """What one run says of one asset; ``None`` if it says nothing new."""
    step = run.steps.get(asset.key)
    ended = step.ended if step is not None and step.ended is not None else run.ended
    if ended is None or (before is not None and before.at >= ended):
        return None
    record = facts.records.get(asset.key)
    if record is not None and record.run_id == run.id:
        unsettled = run.state == "succeeded" and ended > memory.until and facts.stale(asset) is not None
        if not unsettled or memory.asked.get(asset.key) != facts.wanted(asset):
            return None
        problem: Fault | None = Fault("incomplete", record.failed, may_pass=True) if record.failed else _UNSETTLED
    elif record is not None and record.at > ended:  # made by another one since
        return None
    elif run.state == "cancelled" and (step is None or step.state in ("running", "failed")):
        problem = None
    else:
        problem = _problem(run, step)
        if problem is None:
            return None
    wanted = _was_wanted(asset, step.started if step and step.started else ended, facts, memory)
    if problem is not None:
        problem = replace(problem, message=problem.message[:LONGEST_MESSAGE])
    count = 0 if problem is None else 1
    if problem is not None and before is not None and before.wanted == wanted:
        count += before.count
    return Attempt(wanted, count, ended, run.id, problem)


def _is_over(attempt: Attempt, key: str, facts: Facts) -> bool:
    """Whether the asset was made since."""
    record = facts.records.get(key)
    return record is not None and record.at > attempt.at


def _problem(run: KnownRun, step: KnownStep | None) -> Fault | None:
    if step is not None and step.state == "failed":
        return step.problem or _DIED
    if run.state != "failed":
        return None
    if step is not None and step.state == "running":
        return run.problem or _DIED
    if step is None and not run.steps:  # nothing of it began
        return run.problem or Fault("run", "its run ended before it began", may_pass=True)
    return None


def _was_wanted(asset: Asset, began: float, facts: Facts, memory: Memory) -> Wanted:
    """What an attempt that began at a time was to make the asset from.

    What its run was asked for may be older than that: inputs that the run made itself, or that changed while it was queued.
    Inputs of which nothing was recorded since are those that it read.
    """
    now, asked = facts.wanted(asset), memory.asked.get(asset.key)
    if asked is None:
        return now
    return Wanted(asked.code, now.inputs if facts.inputs_at(asset) <= began else asked.inputs)
