"""What is remembered from one look to the next: attempts that made nothing, and what active runs were asked to make."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from merge_assets.pipeline.reconciler.facts import Fault, Wanted

LONGEST_MESSAGE = 300
MOST_ATTEMPTS = 10_000
"""Assets whose last attempt is remembered, the newest; bounds the cursor of the sensor."""

MINUTE = 60.0
SOON = (1 * MINUTE, 2 * MINUTE, 5 * MINUTE, 5 * MINUTE, 5 * MINUTE, 15 * MINUTE, 60 * MINUTE)
"""Pauses after failures that may pass, the last one for ever."""
RARELY = (60 * MINUTE, 6 * 60 * MINUTE, 24 * 60 * MINUTE)
"""Pauses after others, which will most likely fail again until somebody changes something."""
PATIENCE = 4
"""Failures that may pass after which a person should look."""


@dataclass(frozen=True)
class Attempt:
    """The last attempts to make one version of an asset, none of which did.

    Attributes:
        wanted: what they were to make it from.
        count: how many there were; 0 if it was cancelled.
        at: when the last one ended.
        run_id: of the last one.
        problem: why it failed; ``None`` if it was cancelled.
    """

    wanted: Wanted
    count: int
    at: float
    run_id: str
    problem: Fault | None

    @property
    def next_at(self) -> float | None:
        """When it is tried again though nothing changes; ``None``: never."""
        if self.problem is None:
            return None
        pauses = SOON if self.problem.may_pass else RARELY
        return self.at + max(pauses[min(self.count, len(pauses)) - 1], self.problem.wait or 0.0)

    @property
    def needs_person(self) -> bool:
        return self.problem is not None and (not self.problem.may_pass or self.count >= PATIENCE)


@dataclass(frozen=True)
class Memory:
    """What is remembered.

    Attributes:
        until: runs that ended before this time have been learned from.
        attempts: by asset.
        asked: what the assets of active runs were to be made from when they were asked for.
        told: digest of what was said last.
    """

    until: float = 0.0
    attempts: Mapping[str, Attempt] = field(default_factory=dict)
    asked: Mapping[str, Wanted] = field(default_factory=dict)
    told: str = ""

    def saying(self, told: str) -> Memory:
        return replace(self, told=told)

    def encode(self) -> str:
        """As the cursor of the sensor. Many failures of one cause have one text."""
        kept = sorted(self.attempts.items(), key=lambda item: -item[1].at)[:MOST_ATTEMPTS]
        problems = list(dict.fromkeys(each.problem for _, each in kept if each.problem is not None))
        number = {problem: index for index, problem in enumerate(problems)}
        content = {
            "until": self.until,
            "told": self.told,
            "problems": [[each.kind, each.message, each.may_pass, each.wait] for each in problems],
            "attempts": {
                key: [
                    each.wanted.code,
                    each.wanted.inputs,
                    each.count,
                    each.at,
                    each.run_id,
                    None if each.problem is None else number[each.problem],
                ]
                for key, each in kept
            },
            "asked": {key: [wanted.code, wanted.inputs] for key, wanted in self.asked.items()},
        }
        return base64.b64encode(zlib.compress(json.dumps(content, separators=(",", ":")).encode())).decode()

    @staticmethod
    def decode(text: str | None) -> Memory:
        """Of a cursor; one that cannot be read, as another version of this program may have left it, is none."""
        if not text:
            return Memory()
        try:
            content = json.loads(zlib.decompress(base64.b64decode(text)))
            problems = [Fault(*each) for each in content["problems"]]
            attempts = {
                key: Attempt(Wanted(code, inputs), count, at, run_id, None if which is None else problems[which])
                for key, (code, inputs, count, at, run_id, which) in content["attempts"].items()
            }
            asked = {key: Wanted(*each) for key, each in content["asked"].items()}
            return Memory(float(content["until"]), attempts, asked, str(content["told"]))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, zlib.error):
            return Memory()
