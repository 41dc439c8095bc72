"""Places of a recipe by their key paths, in plain data as YAML gives it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from merge_assets.recipe.parameters import Misfit, shown
from merge_assets.yamlfile import Path_, spell

_PART = re.compile(r"\[(\d{1,6})\]|([^\[\].]+)")
_PATH = re.compile(r"[^\[\].]+(?:\[\d{1,6}\]|\.[^\[\].]+)*")


def parse_path(text: str) -> Path_:
    """The key path that :func:`~merge_assets.yamlfile.spell` would spell so.

    Raises:
        Misfit: it is none.
    """
    if not _PATH.fullmatch(text):
        raise Misfit(
            f"{shown(text)} is no key path of a recipe; write one such as parameters.t or slices[0].sources[1]"
        )
    return tuple(int(part[1]) if part[1] else part[2] for part in _PART.finditer(text))


def placed(content: Any, path: Path_, value: Any, done: Path_ = ()) -> Any:
    """``content`` with ``value`` at ``path``; what does not lead there is shared with what was given.

    Keys of mappings that are not there are made; whether the recipe knows them, its schema says.

    Raises:
        Misfit: a list has no such entry, or something on the way is neither a list nor a mapping.
    """
    if not path:
        return value
    part, rest = path[0], path[1:]
    where = spell(done) or "the recipe"
    if isinstance(part, int):
        if not isinstance(content, Sequence) or isinstance(content, str):
            raise Misfit(f"{spell((*done, *path))} is no place: {where} is {shown(content)}, not a list")
        if part >= len(content):
            raise Misfit(
                f"{spell((*done, *path))} is no place: {where} has {len(content)} entries, [0] to [{len(content) - 1}]"
            )
        return [*content[:part], placed(content[part], rest, value, (*done, part)), *content[part + 1 :]]
    if content is not None and not isinstance(content, dict):
        raise Misfit(f"{spell((*done, *path))} is no place: {where} is {shown(content)}, not a mapping")
    return {**(content or {}), part: placed((content or {}).get(part), rest, value, (*done, part))}
