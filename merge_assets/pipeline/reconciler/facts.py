"""What is known of assets and runs at one moment, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from merge_assets.pipeline.lateness import is_due
from merge_assets.pipeline.versions import Recorded, basis_reason

AUTOMATION = "automation"
"""Trigger of the runs that the reconciler asks for."""

StepState = Literal["running", "done", "failed", "skipped"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ACTIVE: tuple[RunState, ...] = ("queued", "running")


@dataclass(frozen=True)
class Asset:
    """An asset that can be built.

    Attributes:
        key: path of its key joined with ``/``, as everywhere here.
        inputs: what it is made of, built or observed.
        code: says how it is made.
        automated: automation may build it.
        collects: it is made of those inputs that are there, as the leaderboard is.
        fresh: seconds after which it is late if nobody has looked whether it is still the same.
        told_by: the input that says how it is made, and its version that said so; ``None`` where that is not a result.
    """

    key: str
    inputs: tuple[str, ...]
    code: str | None
    automated: bool = True
    collects: bool = False
    fresh: float | None = None
    told_by: tuple[str, str] | None = None


@dataclass(frozen=True)
class Fault:
    """Why something failed.

    Attributes:
        kind: of our errors, see docs/operation.md; ``died`` for a process that was killed, ``run`` for a run that did not
            begin, else the class of the error.
        message: in one line.
        may_pass: whether the same may succeed later although nobody changes anything.
        wait: seconds after which a server wants to be asked again.
    """

    kind: str
    message: str
    may_pass: bool
    wait: float | None = None


@dataclass(frozen=True)
class KnownStep:
    """The making of one asset in one run, once it began or ended; times in seconds since 1970."""

    state: StepState
    started: float | None = None
    ended: float | None = None
    problem: Fault | None = None


@dataclass(frozen=True)
class KnownRun:
    """A run that builds assets.

    Attributes:
        id: of the Dagster run.
        state: where it is.
        trigger: who asked for it: ``automation``, ``schedule``, ``merge-assets build``, or ``a person``.
        since: when it was asked for, or began.
        keys: the assets that it was asked for.
        steps: those of them that began or ended.
        ended: when it ended.
        problem: why it failed as a whole.
        reason: why it was asked for, if it says so.
    """

    id: str
    state: RunState
    trigger: str
    since: float
    keys: frozenset[str]
    steps: Mapping[str, KnownStep] = field(default_factory=dict)
    ended: float | None = None
    problem: Fault | None = None
    reason: str = ""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    def open(self) -> frozenset[str]:
        """What it is still to make, if it is active."""
        done = {key for key, step in self.steps.items() if step.state != "running"}
        return self.keys - done if self.is_active else frozenset()


@dataclass(frozen=True)
class Facts:
    """What is known at one moment.

    Attributes:
        now: seconds since 1970.
        assets: in topological order.
        records: what is recorded of assets and base checkpoints; those of which nothing is are left out.
        refused: failed blocking checks, by asset.
        runs: those that are active, and those that ended since a while.
        let_go: what is recorded and has gone from the store by `keep` of its recipe, and something is to be made of.
    """

    now: float
    assets: tuple[Asset, ...]
    records: Mapping[str, Recorded]
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    runs: tuple[KnownRun, ...] = ()
    let_go: frozenset[str] = frozenset()

    def stale(self, asset: Asset) -> str | None:
        """Why an asset is out of date with respect to its direct inputs; ``None`` if it is not.

        What of it failed, and will fail again, makes it so for people alone.
        """
        if asset.key in self.let_go:
            return "its bytes went by `keep`, and something is to be made of them"
        own = self.records.get(asset.key)
        if own is not None and own.failed and not own.may_pass:
            own = replace(own, failed="")
        inputs = {key: record.data_version if (record := self.records.get(key)) else None for key in asset.inputs}
        return basis_reason(asset.key.partition("/")[0], own, asset.code, inputs)

    def is_due(self, asset: Asset) -> bool:
        """Whether an asset that is there is to be looked at again, although nothing has changed."""
        record = self.records.get(asset.key)
        return record is not None and is_due(asset.fresh, record.at, self.now)

    def is_late(self, asset: Asset) -> bool:
        """Whether that should have happened by now."""
        record = self.records.get(asset.key)
        return record is not None and asset.fresh is not None and self.now - record.at > asset.fresh

    def wanted(self, asset: Asset) -> Wanted:
        """What an asset would be made from now."""
        return Wanted(
            _short(asset.code or ""),
            _short(
                "\n".join(
                    f"{key} {record.data_version if (record := self.records.get(key)) else '-'}"
                    for key in sorted(asset.inputs)
                )
            ),
        )

    def inputs_at(self, asset: Asset) -> float:
        """When the newest input was recorded."""
        return max((record.at for key in asset.inputs if (record := self.records.get(key))), default=0.0)


@dataclass(frozen=True)
class Wanted:
    """What one version of an asset follows from: digests of its code and of the versions of its inputs."""

    code: str
    inputs: str


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
