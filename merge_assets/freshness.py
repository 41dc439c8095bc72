"""What is out of date: one answer, from keys.

A result follows from keys: one of what says how it is made, and one of the bytes of each input. It is out of date when it
would follow from others now. Whoever keeps results, in the store or in Dagster's event log, asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHORT = 12
"""Digits of a version that people are shown."""


@dataclass(frozen=True)
class Basis:
    """What a result follows from.

    Attributes:
        code: key of what says how it is made: a recipe, a suite, the modules of an analysis; ``None`` if nothing does.
        inputs: key of the bytes of each input, by name; ``None`` for bytes that are not known now.
    """

    code: str | None
    inputs: Mapping[str, str | None]


def stale_reason(was: Basis | None, now: Basis, code_changed: str = "its definition changed") -> str | None:
    """Why a result is out of date with respect to its direct inputs, with what changed, then and now; ``None`` if it is not.

    Args:
        was: what it was made from; ``None`` if there is none.
        now: what it would be made from.
        code_changed: what to say where another code would make it.
    """
    if was is None:
        return "never built"
    if now.code is not None and was.code != now.code:
        return f"{code_changed}: {short(was.code)} then, {short(now.code)} now"
    for name, key in now.inputs.items():
        if name not in was.inputs:
            return f"{name} is a new input"
        if key is not None and was.inputs[name] != key:
            return f"{name} has other bytes: {short(was.inputs[name])} then, {short(key)} now"
    if removed := sorted(was.inputs.keys() - now.inputs.keys()):
        return f"{removed[0]} is no longer an input"
    return None


def short(key: str | None) -> str:
    """A version or a key for people: as many digits as tell it from others."""
    return "unknown" if key is None else key[:SHORT]
