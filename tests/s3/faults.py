"""Which fault a request meets: rules with a rate, drawn from seeded generators.

Every rule draws for every request that it could hit, in the order of the requests, from a generator of its own. So the same
requests in the same order meet the same faults, and adding a rule does not move the faults of another.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

KINDS = (
    "error500",  # the server answers 500 InternalError without doing anything
    "error503",  # 503 ServiceUnavailable
    "slowdown",  # 503 SlowDown, as S3 says "retry later, slower"
    "reset_before",  # the connection is reset before the request reaches the server
    "reset_after",  # the server does what was asked, the connection is reset instead of an answer
    "reset_body",  # the connection is reset inside the request's body if there is one, else inside the answer's body
    "truncate",  # the answer's body ends too early and the connection is closed in an orderly way
    "flip",  # one bit of the body of a successful GET is flipped; headers stay
    "flip_upload",  # one bit of a request's body is flipped
    "latency",  # the request waits before it goes on; alone or together with one of the others
)


@dataclass(frozen=True)
class Filter:
    """Which requests are meant; what is None does not matter. ``path`` and ``query`` are regular expressions to find."""

    method: str | None = None
    path: str | None = None
    query: str | None = None

    def matches(self, method: str, path: str, query: str) -> bool:
        """Whether a request is meant.

        Args:
            path: without percent escapes, ``/bucket/key``.
            query: as it was sent, without the question mark.
        """
        return (
            (self.method is None or self.method == method)
            and (self.path is None or re.search(self.path, path) is not None)
            and (self.query is None or re.search(self.query, query) is not None)
        )


@dataclass
class Rule:
    """Faults of one kind; ``left`` is how many may still be injected, None for any number."""

    kind: str
    rate: float
    seed: int
    where: Filter
    left: int | None
    milliseconds: float
    generator: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.generator = random.Random(f"{self.kind} {self.seed}")


@dataclass(frozen=True)
class Fault:
    """A fault for one request; ``place`` in [0, 1) is where in the body it happens, ``bit`` which bit of that byte."""

    rule: Rule
    place: float
    bit: int

    @property
    def kind(self) -> str:
        return self.rule.kind


class Faults:
    """The rules in force, and how many faults they really injected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._injected: Counter[str] = Counter()

    def add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def injected(self) -> dict[str, int]:
        with self._lock:
            return dict(self._injected)

    def forget(self) -> None:
        with self._lock:
            self._injected.clear()

    def draw(self, method: str, path: str, query: str, *, uploads: bool) -> tuple[Fault | None, Fault | None]:
        """The latency and the other fault of a request, the first rule that hits; ``uploads``: it has a body."""
        drawn: dict[bool, Fault] = {}
        with self._lock:
            for rule in self._rules:
                if not _could_hit(rule.kind, method, uploads) or not rule.where.matches(method, path, query):
                    continue
                number, place, bit = rule.generator.random(), rule.generator.random(), rule.generator.randrange(8)
                delays = rule.kind == "latency"
                if number < rule.rate and rule.left != 0 and delays not in drawn:
                    drawn[delays] = Fault(rule, place, bit)
                    if rule.left is not None:
                        rule.left -= 1
        return drawn.get(True), drawn.get(False)

    def happened(self, fault: Fault) -> None:
        with self._lock:
            self._injected[fault.kind] += 1

    def missed(self, fault: Fault) -> None:
        """There was nothing to break, such as an answer without a body."""
        with self._lock:
            if fault.rule.left is not None:
                fault.rule.left += 1


def _could_hit(kind: str, method: str, uploads: bool) -> bool:
    if kind == "flip":
        return method == "GET"
    if kind == "flip_upload":
        return uploads
    if kind == "truncate":
        return method != "HEAD"
    if kind == "reset_body":
        return uploads or method != "HEAD"
    return True
