"""How much a model worker may take of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from merge_assets.settings import Settings

_SHARE = 0.9
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limits:
    """The bounds of a model worker; the defaults are those of the settings.

    Attributes:
        load: seconds that loading a model, its config and its tokenizer may take.
        answer: seconds that the generation of a check may take.
        silence: seconds without progress after which an evaluation is ended.
        memory: bytes of memory, without pages of files and the libraries that all workers share; ``None`` is nine tenths of
            what is free when the worker starts.
        unconfined: whether models may be loaded where this machine cannot keep a process off the network.
    """

    load: float = 600
    answer: float = 120
    silence: float = 1800
    memory: int | None = None
    unconfined: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those that the settings say."""
        return cls(
            load=settings.load_seconds,
            answer=settings.answer_seconds,
            silence=settings.silence_seconds,
            memory=None if settings.model_memory is None else int(settings.model_memory),
            unconfined=settings.allow_unconfined,
        )

    def bytes_of_memory(self) -> int | None:
        """The bound in bytes, as of now; ``None`` where it is not set and what is free cannot be told."""
        if self.memory is not None:
            return self.memory
        free = [size for size in (_available(), _left_in_cgroup()) if size is not None]
        return int(min(free) * _SHARE) if free else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _left_in_cgroup() -> int | None:
    """What a container may still take, pages of files counted as taken."""
    try:
        most, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return None if most == "max" else max(int(most) - int(used), 0)
    except (OSError, ValueError):
        return None
