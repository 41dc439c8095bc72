"""What needs a person, by cause, and which of it is news."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from merge_assets.pipeline.status import Status

_FEW = 20


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong.

    Attributes:
        state: ``failed``, ``refused``, ``late`` or ``broken``.
        reason: what is wrong, in words.
        keys: all assets, recipes or suites that it is wrong with.
        run: of which more can be read in the UI, if there is one.
    """

    state: str
    reason: str
    keys: tuple[str, ...]
    run: str | None = None

    @property
    def digest(self) -> str:
        """The same for the same cause, whatever it hits."""
        return hashlib.sha256(f"{self.state}\n{self.reason}".encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        more = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
        return f"{self.keys[0]}{more}: {self.state}"

    @property
    def text(self) -> str:
        names = "\n".join(f"- {key}" for key in self.keys[:_FEW])
        more = f"\n- and {len(self.keys) - _FEW} more" if len(self.keys) > _FEW else ""
        run = f"\n\nIts run is {self.run}." if self.run else ""
        return f"{self.reason}\n\n{names}{more}{run}\n\n`merge-assets status` shows the whole project."


def causes(status: Status) -> list[Cause]:
    """What needs a person; what fails for one reason is one cause, however many assets it hits."""
    found: dict[tuple[str, str], tuple[list[str], str | None]] = {}
    for line in status.lines:
        if line.needs_person:
            state = "late" if line.late and line.state not in ("failed", "refused") else line.state
            keys, _ = found.setdefault((state, _without_key(line.reason, line.key)), ([], line.run))
            keys.append(line.key)
    for node in status.broken:
        found.setdefault(("broken", node.message), ([], None))[0].append(node.name)
    return [Cause(state, reason, tuple(keys), run) for (state, reason), (keys, run) in found.items()]


def _without_key(reason: str, key: str) -> str:
    """The reason without the name of what it is of, so that the same of many is one."""
    return reason.replace(key, "it").replace(key.rpartition("/")[2], "it")


@dataclass(frozen=True)
class Told:
    """Who was told of which causes that still last, with the time: the cursor of the sensor."""

    since: Mapping[str, float]

    @staticmethod
    def decode(text: str | None) -> Told:
        try:
            content = json.loads(text or "{}")
            return Told({str(told): float(at) for told, at in content.items()})
        except (ValueError, AttributeError, TypeError):
            return Told({})

    def encode(self) -> str:
        return json.dumps(dict(self.since), separators=(",", ":"))

    def knows(self, way: str, cause: Cause) -> bool:
        return f"{cause.digest} {way}" in self.since

    def after(self, now: Iterable[Cause], told: Iterable[tuple[str, Cause]], at: float) -> Told:
        """With what was told by which way, and without what is over, so that it is told again if it comes back."""
        lasting = {cause.digest for cause in now}
        since = {**self.since, **{f"{cause.digest} {way}": at for way, cause in told}}
        return Told({name: time for name, time in since.items() if name.partition(" ")[0] in lasting})
