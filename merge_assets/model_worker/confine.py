"""What a model worker may not do: reach a network, leave large files behind, outlive who asked for it.

Everything is asked of the kernel through the C library, and holds for what the worker starts, too. A network namespace without
any interface is the first wall; a filter of system calls, which knows local sockets alone, is the second. One of them has to
stand. Where the processes of a worker talk to each other over TCP, as vLLM's do, the first wall stands alone, and inside it is
nothing but the loopback interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

_SET_DEATH_SIGNAL, _SET_SUBREAPER, _SET_NO_NEW_PRIVILEGES, _SET_FILTER = 1, 36, 38, 22
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_LARGEST_FILE = 4 << 30
_OPEN_FILES = 4096


class UnconfinedError(Exception):
    """This machine cannot keep a process off the network."""


def confine(guard: int, *, offline: bool, loopback: bool, unconfined: bool) -> None:
    """Confine this process, for good. It has to have one thread.

    Args:
        guard: process id of the parent, with which this process ends.
        offline: whether it is kept off the network.
        loopback: whether it has a network of its own then, which leads nowhere.
        unconfined: whether it may go on where that cannot be had.

    Raises:
        UnconfinedError: it cannot be had.
    """
    os.setsid()
    _limit()
    if offline:
        walls = _namespace(), _loopback() if loopback else _filter()
        if not (all(walls) if loopback else any(walls)) and not unconfined:
            offers = "no network namespace" if loopback else "neither a network namespace nor seccomp"
            forbid = "it" if loopback else "both"
            raise UnconfinedError(
                f"this machine offers {offers}, so a model that is loaded here could reach the network; run it on Linux "
                f"outside of containers that forbid {forbid}, or set allow_unconfined = true"
            )
    die_with(guard)


def die_with(parent: int) -> None:
    """End when the parent does, however it ends; at once if it has ended already."""
    _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, so that it can be found."""
    _prctl(_SET_SUBREAPER, 1)


def _limit() -> None:
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):  # the first to go when memory is out
        Path("/proc/self/oom_score_adj").write_text("1000")


def _prctl(option: int, value: int, pointer: object = None) -> bool:
    with contextlib.suppress(AttributeError):  # another system than Linux
        nothing = ctypes.c_ulong(0)
        return bool(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), pointer or nothing, nothing, nothing) == 0)
    return False


def _namespace() -> bool:
    """A network without interfaces. Root needs no user namespace for it, in which other people's files would be closed."""
    user, group = os.geteuid(), os.getegid()
    own = 0 if user == 0 else _NEW_USER
    try:
        if ctypes.CDLL(None).unshare(own | _NEW_NETWORK) != 0:
            return False
    except AttributeError:
        return False
    if own:
        with contextlib.suppress(OSError):  # then the process is nobody's, which changes no right that it has
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41


def _loopback() -> bool:
    """Switch on the one interface of a network without others."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        fcntl.ioctl(held, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))
        return True
    return False


# -- the filter: a program of the kernel's, see seccomp(2) and linux/filter.h ---------------------------------------------

_ARCHITECTURES = {"x86_64": (0xC000003E, 41, 0x40000000), "aarch64": (0xC00000B7, 198, 0xFFFFFFFF)}
"""By machine: its number, its call ``socket``, and the first number that is of a foreign set of calls."""

_IO_URING_SETUP = 425  # which could make sockets past the filter
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 13  # EACCES
_CALL, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_LOCAL = 1  # AF_UNIX


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filter() -> bool:
    """Refuse sockets that are not local, for good."""
    known = _ARCHITECTURES.get(platform.machine())
    if known is None or sys.byteorder != "little" or struct.calcsize("P") != 8:
        return False
    architecture, make_socket, foreign = known
    steps = (  # (what, jump if so, jump if not, value)
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 7, architecture),
        (_LOAD, 0, 0, _CALL),
        (_AT_LEAST, 5, 0, foreign),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, make_socket),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, _LOCAL),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    program = _Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    return _prctl(_SET_NO_NEW_PRIVILEGES, 1) and _prctl(_SET_FILTER, 2, ctypes.byref(program))
