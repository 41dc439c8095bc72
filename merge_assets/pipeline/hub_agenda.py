"""When which Hub reference is asked next: fair turns, backing off, and the Hub's own limits.

The agenda is the cursor of the sensor, so that what was learned outlives a restart. Dagster keeps the cursor of every
tick of a week, so it is short. All times are seconds since 1970.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

FIRST_PAUSE = 30.0
LONGEST_PAUSE = 3600.0
LONGEST_OUTAGE_PAUSE = 600.0
"""A Hub that does not answer at all is not burdened by a try, and a network is expected back sooner than a licence."""


@dataclass
class Polled:
    """What is remembered of one reference.

    Attributes:
        wait: when it may be asked again.
        failures: times in a row that it could not be read.
        since: when the first of them was.
        problem: kind of the error that the last of them was; empty if it can be read.
        passing: whether that may pass by itself.
        shown: what its page shows; empty if nothing yet.
    """

    wait: int = 0
    failures: int = 0
    since: int = 0
    problem: str = ""
    passing: bool = False
    shown: str = ""


@dataclass
class Agenda:
    """Turns by reference, and what holds for the whole Hub.

    Attributes:
        turns: those first that were asked longest ago.
        wait: when anything may be asked again.
        failures: times in a row that the Hub was too busy or did not answer at all.
        since: when the first of them was.
    """

    turns: dict[str, Polled] = field(default_factory=dict)
    wait: int = 0
    failures: int = 0
    since: int = 0

    @classmethod
    def load(cls, cursor: str | None, references: Iterable[str]) -> "Agenda":
        """What a cursor says of these references; a cursor that cannot be read is an empty agenda."""
        agenda = cls()
        try:
            content = json.loads(cursor or "{}")
            turns = {
                name: Polled(shown=turn) if isinstance(turn, str) else Polled(**turn)
                for name, turn in content.pop("turns", {}).items()
            }
            agenda = cls(turns, **content)
        except (ValueError, TypeError, AttributeError):
            pass  # of another version
        wanted = dict.fromkeys(references)
        new = {name: Polled() for name in sorted(wanted.keys() - agenda.turns.keys())}
        agenda.turns = new | {name: turn for name, turn in agenda.turns.items() if name in wanted}
        return agenda

    def dump(self) -> str:
        """The cursor. Of a turn without a problem there is only what its page shows."""
        turns = {
            name: turn.shown if turn == Polled(shown=turn.shown) else {k: v for k, v in asdict(turn).items() if v}
            for name, turn in self.turns.items()
        }
        return json.dumps({**asdict(self), "turns": turns}, separators=(",", ":"))

    def due(self, now: float) -> list[str]:
        """The references that may be asked, those first that were asked longest ago."""
        return [name for name, turn in self.turns.items() if now >= turn.wait] if now >= self.wait else []

    def asked(self, name: str) -> Polled:
        """The turn of a reference that is last in the order from now on."""
        turn = self.turns[name] = self.turns.pop(name)
        return turn

    def answered(self, name: str, now: float) -> None:
        """A reference was read; others that waited for the Hub to recover need not wait longer."""
        turn = self.asked(name)
        if turn.passing:
            for other in self.turns.values():
                if other.passing:
                    other.wait = 0
        self.turns[name] = Polled(shown=turn.shown)

    def refused(self, name: str, now: float, problem: str, *, passing: bool) -> None:
        """A reference cannot be read; it is asked again after a pause that grows up to an hour."""
        turn = self.asked(name)
        if turn.problem != problem:
            turn.failures, turn.since, turn.problem, turn.passing = 0, int(now), problem, passing
        turn.failures += 1
        turn.wait = math.ceil(now + pause(name, turn.failures, LONGEST_PAUSE))

    def held(self, now: float, longest: float, wait: float | None = None) -> None:
        """The Hub is too busy or silent: nothing is asked for ``wait`` seconds, or for a pause that grows."""
        self.since = self.since or int(now)
        self.failures += 1
        self.rest(now, pause("", self.failures, longest) if wait is None else wait)

    def rest(self, now: float, seconds: float) -> None:
        """Nothing is asked for so long."""
        self.wait = max(self.wait, math.ceil(now + seconds))

    def recovered(self) -> None:
        """The Hub answers again."""
        self.failures, self.since = 0, 0

    def hurry(self) -> None:
        """Forget the pauses of what a person may have put right: a name, a token, a licence."""
        for turn in self.turns.values():
            if turn.problem and not turn.passing:
                turn.wait = 0


def pause(name: str, failures: int, longest: float) -> float:
    """Seconds to wait after so many failures: doubling up to ``longest``, less up to half of that, which differs by name."""
    whole = min(longest, FIRST_PAUSE * 2.0 ** min(failures - 1, 30))
    share = int.from_bytes(hashlib.sha256(f"{name} {failures}".encode()).digest()[:4], "big") / 2**32
    return whole * (0.5 + share / 2)
