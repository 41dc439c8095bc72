"""Whether a file is still what it was when somebody looked at it, as far as the file system tells."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from merge_assets.errors import InputError
from merge_assets.regular import is_file

_GRAIN = 0.02  # seconds; clocks of file systems tick every 1 to 10 ms


@dataclass(frozen=True)
class FileState:
    """What a file system says of a file's content.

    A program can set the time of modification back, but not the time of the last change of any kind (``changed``). What writes
    past the file system, such as a failing disk, or through a mapping that was dirty already, changes neither.

    Attributes:
        device: of the file system.
        inode: number of the file.
        size: bytes.
        modified: when the content changed last, ns; can be set by anybody.
        changed: when anything of it changed last, ns.
        links: names of the file. A link made or removed sets ``changed``, too.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    links: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The state that a look at the file found."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink
        )

    def is_same(self, later: FileState) -> bool:
        """Whether nothing was written between the two looks; names may have been given or taken, which writes nothing."""
        ours = (self.device, self.inode, self.size, self.modified)
        theirs = (later.device, later.inode, later.size, later.modified)
        return ours == theirs and (self.changed == later.changed or self.links != later.links)


def not_as_digested(what: str, was: str = "", found: str = "") -> InputError:
    """The error of an input whose bytes have another digest than was recorded; ``was`` and ``found`` where they are known."""
    digests = f": its digest was {was[:16]} and is {found[:16]} now" if was else ""
    return InputError(
        f"{what} is not what it was when it was digested{digests}; nothing of it is used, and nothing is published: if "
        "somebody wrote the file, run the command again when it is written; if nobody did, it is damaged: fetch it "
        "again or, if it is a version of the store, run `merge-assets store verify`"
    )


def changed_while_read(path: Path | str) -> InputError:
    """The error of a file into which something was written while it was read."""
    return InputError(
        f"{path}: changed while it was read; nothing of it is used, and nothing is published: run the command again when it is "
        "written"
    )


def check_unchanged(states: Mapping[str, FileState]) -> None:
    """See that nothing was written into files since they were looked at.

    Args:
        states: by path.

    Raises:
        InputError: if something was, or one is gone.
    """
    for path, state in states.items():
        try:
            same = state.is_same(FileState.of(Path(path).stat()))
        except OSError:
            same = False
        if not same:
            raise changed_while_read(path)


def states_of(folder: Path) -> dict[str, FileState]:
    """The states of the files of a folder, by path, from which every later change differs; see :func:`settled`."""
    states = {str(path): FileState.of(path.stat()) for path in folder.iterdir() if is_file(path)}
    if any(abs(time.time() - state.changed / 1e9) < _GRAIN for state in states.values()):
        time.sleep(2 * _GRAIN)
        states = {str(path): FileState.of(path.stat()) for path in folder.iterdir() if is_file(path)}
    return states


def settled(descriptor: int) -> FileState:
    """The state of an open file from which every later change differs.

    A clock that ticks every few milliseconds gives two changes one time, so a file that has just changed is waited for.
    """
    state = FileState.of(os.fstat(descriptor))
    for _ in range(int(1 / _GRAIN)):  # a clock that is ahead by more than a tick is another machine's
        age = time.time() - state.changed / 1e9
        if not -_GRAIN < age < _GRAIN:
            break
        time.sleep(_GRAIN)
        state = FileState.of(os.fstat(descriptor))
    return state
