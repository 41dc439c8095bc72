"""What became of assets and of the run that was to make them."""

from dataclasses import dataclass

OBSERVED = "observed"
BUILT = "built"
RESUMED = "built, resumed"
"""Built, with what an earlier attempt had finished of it."""
REUSED = "reused from the store"
CONFIRMED = "computed again, equal"
MEASURED = "measured again"
UP_TO_DATE = "up to date"
FAILED = "failed"
SKIPPED = "skipped"
WOULD = "would be made"
"""In a dry run."""
RUNNING = "running"
"""No end yet; told when its step begins, and with how far it is."""
WAITING = "waiting"
"""No end yet: its step is tried again after a while."""

STOPPED = "stopped"
CANCELLED = "cancelled"

HOW = {FAILED: "failed", STOPPED: "was stopped", CANCELLED: "was cancelled"}
"""How a run ended, as a predicate."""


@dataclass(frozen=True)
class Outcome:
    """What became of one asset.

    Attributes:
        key: path of the asset key joined with ``/``.
        state: one of the constants of this module.
        seconds: wall time of its step; 0 without one.
        message: why it was built, why it failed, or how far it is.
    """

    key: str
    state: str
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Ending:
    """Why a run ended before its end, where the outcomes of its steps do not say it.

    Attributes:
        run_id: of the Dagster run.
        state: ``FAILED``, ``STOPPED`` by a signal to this process, or ``CANCELLED`` from elsewhere.
        reason: in the words of the error that ended it.
        keys: the assets that were not made because of it, in build order.
    """

    run_id: str
    state: str
    reason: str
    keys: tuple[str, ...] = ()
