"""Towers: parts of a model that see or hear, told by the words of a name."""

from __future__ import annotations

import re

_TOWERS = (
    ("vision_tower", re.compile(r"vis(?:ion|ual)|image|pixel|\bvit(?![a-z])|siglip|clip")),
    ("audio_tower", re.compile(r"audio|speech|sound")),
)

TOWERS = tuple(name for name, _ in _TOWERS)


def tower_of(name: str) -> str | None:
    """The tower that the words of a tensor's name, or of a section of a config, are of; ``None`` if of none."""
    return next((tower for tower, words in _TOWERS if words.search(name)), None)
