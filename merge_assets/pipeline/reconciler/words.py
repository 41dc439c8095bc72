"""Decisions in words, for the log of a tick, tags of runs and the command line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from merge_assets.pipeline.reconciler.decide import SAYS, Decision

MOST_LINES = 200
_FEW = 5
QUIET = frozenset({"current", "by hand"})
"""States of which there is nothing to say."""


def sentence(decision: Decision) -> str:
    """What is done about an asset and why."""
    text = f"{decision.key} {SAYS[decision.state]}: {decision.reason}"
    if decision.run is not None:
        text += f" (run {decision.run.id[:8]})"
    attempt = decision.attempt
    if attempt is not None and attempt.problem is not None:
        times = "once" if attempt.count == 1 else f"{attempt.count} times"
        tries = f"tried {times}, last at {clock(attempt.at)} in run {attempt.run_id[:8]}"
        if decision.state == "failed":
            later = f"again at {clock(attempt.next_at)}"
            return f"{text}; {tries}; {later}, or at once when an input changes"
        return f"{text}; {tries}, in vain"
    return text


def summary(decisions: Sequence[Decision]) -> str:
    """All decisions in one line."""
    told = [each for each in decisions if each.state not in QUIET]
    if not told:
        by_hand = sum(each.state == "by hand" for each in decisions)
        rest = f"; {by_hand} more are out of date and built by hand" if by_hand else ""
        return f"{len(decisions) - by_hand} assets are up to date{rest}"
    counts = {state: sum(each.state == state for each in told) for state in dict.fromkeys(each.state for each in told)}
    head = ", ".join(f"{count} {state}" for state, count in counts.items())
    shown = "; ".join(sentence(each) for each in told[:_FEW])
    more = f"; and {len(told) - _FEW} more" if len(told) > _FEW else ""
    return f"{head}. {shown}{more}"


def lines(decisions: Sequence[Decision]) -> list[str]:
    """One line for each asset of which there is something to say."""
    told = [sentence(each) for each in decisions if each.state not in QUIET]
    return told if len(told) <= MOST_LINES else [*told[:MOST_LINES], f"and {len(told) - MOST_LINES} more"]


def digest(said: Sequence[str]) -> str:
    """Tells whether the same was said before."""
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def clock(at: float | None) -> str:
    """A time of day of this machine, with the date unless it is today."""
    if at is None:
        return "never"
    now, then = time.localtime(), time.localtime(at)
    same = (now.tm_year, now.tm_yday) == (then.tm_year, then.tm_yday)
    return time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M", then)
