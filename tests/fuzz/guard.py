"""What must never happen, whatever the input: another exception than a clear error, a hang, much memory, a foreign path."""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merge_assets.errors import MergeAssetsError

SECONDS = 20.0
"""CPU time that one input may take."""

MEMORY = 1 << 30
"""Address space that one input may take, beyond what the process has; inputs are far smaller than the header limit."""

LONGEST_MESSAGE = 4000

_LATE = f"took more than {SECONDS} s of CPU"
_PATH_EVENTS = {"open": 0, "os.listdir": 0, "os.scandir": 0, "os.remove": 0, "os.rename": 1, "os.mkdir": 0, "os.rmdir": 0,
                "os.symlink": 1, "os.link": 1, "os.truncate": 0, "os.chmod": 0, "shutil.rmtree": 0}  # fmt: skip
_HARMLESS = ("/dev/", "/proc/", "/sys/", "/etc/localtime", "/etc/mime.types")
_LIBRARIES = tuple(
    {
        *(os.path.realpath(path) for path in sysconfig.get_paths().values()),
        os.path.realpath(sys.base_prefix),
        os.path.realpath(sys.prefix),
        *(str(Path(__file__).resolve().parents[2] / name) for name in ("merge_assets", "tests")),
    }
)


class FuzzFailure(AssertionError):
    """An input did what no input may do."""


class _Watch:
    """The folder that may be touched now, what was touched outside of it, and whether time ran out."""

    folder: str | None = None
    outside: tuple[str, ...] = ()
    late = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    place = _PATH_EVENTS.get(event)
    if place is None or _Watch.folder is None:
        return
    path = arguments[place]
    if event in ("os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree") and arguments[-1] not in (None, -1):
        return  # relative to a folder that was opened, and heard of, before
    if isinstance(path, (str, bytes, os.PathLike)):
        real = os.path.realpath(os.fsdecode(path))
        writes = event not in ("open", "os.listdir", "os.scandir") or (event == "open" and _writes(arguments))
        inside = real == _Watch.folder or real.startswith(_Watch.folder + os.sep)
        library = real.startswith(_LIBRARIES) and (
            not writes or real.endswith((".pyc", "__pycache__")) or ".pyc." in real
        )
        if not inside and not library and not real.startswith(_HARMLESS):
            _Watch.outside += (f"{event} {real}",)


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Run an input: inside, only a :class:`MergeAssetsError` with one clear message may be raised, which ends here.

    Args:
        folder: all that may be read and written; temporary files go to its subfolder ``tmp``.

    Raises:
        FuzzFailure: for anything else.
    """
    if not _Hook.installed:
        sys.addaudithook(_hear)
        _Hook.installed = True
    temporary, tempfile.tempdir = tempfile.tempdir, str(folder / "tmp")
    (folder / "tmp").mkdir(exist_ok=True)
    before = signal.signal(signal.SIGPROF, _too_long)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _Watch.folder, _Watch.outside, _Watch.late = os.path.realpath(folder), (), False
    try:
        yield
    except MergeAssetsError as error:
        check_message(str(error))
    except MemoryError:
        raise FuzzFailure(f"took more than {MEMORY} bytes") from None
    finally:
        _Watch.folder = None
        tempfile.tempdir = temporary
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    if _Watch.late:  # also where a library caught what the alarm raised
        raise FuzzFailure(_LATE)
    if _Watch.outside:
        raise FuzzFailure(f"touched paths outside the folder: {', '.join(_Watch.outside[:5])}")


def check_message(text: str) -> None:
    """An error is for people: not empty, not endless, no Python inside, and it can be printed."""
    if not text.strip() or len(text) > LONGEST_MESSAGE or "Traceback" in text or "object at 0x" in text:
        raise FuzzFailure(f"not a message for people: {text[:300]!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FuzzFailure(f"the message cannot be printed: {text[:300]!r}") from None


class _Hook:
    installed = False


def _too_long(*_: object) -> None:
    _Watch.late = True
    raise FuzzFailure(_LATE)
