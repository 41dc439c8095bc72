"""Which failures of a step are tried again within its run, how often, and after which pauses.

Everything else fails at once: a recipe, a model or a setting that is wrong is so the next time as well.
"""

from dataclasses import dataclass

from merge_assets.errors import MergeAssetsError, ModelMemoryError, StepKilledError

LONGEST_SECONDS = 600.0


@dataclass(frozen=True)
class Retries:
    """How a step is tried again.

    Attributes:
        times: how often at most, whatever it failed of before.
        seconds: pause before the first time, doubled before each further one.
    """

    times: int
    seconds: float = 30.0

    def pause(self, failed: int, asked: float | None = None) -> float:
        """Seconds to wait after so many failed attempts; longer where a server asks for it."""
        return min(max(self.seconds * 2.0 ** (failed - 1), asked or 0.0), LONGEST_SECONDS)


PASSING = Retries(2)
"""After an error that may pass: a server that does not answer, or wants to be left alone for a while."""

MEMORY = Retries(1)
"""After memory ran out, for the step or for the process in which it has loaded a model: it may have been others' doing. Once
more tells; who takes all memory twice would do so for ever."""


def retries_after(error: MergeAssetsError) -> Retries | None:
    """How a step is tried again that failed with an error; ``None`` if it is not."""
    if isinstance(error, (ModelMemoryError, StepKilledError)):
        return MEMORY
    return PASSING if error.may_pass else None
