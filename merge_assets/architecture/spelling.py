"""Spellings of tensor names: one role under several names.

Files of one architecture spell names in several ways: with or without the names of wrapping modules (``model.``, ``bert.``,
``language_model.``), as transformers renamed modules over its versions, as training left them (``_orig_mod.``, ``module.``).
The names that transformers knows are a table, made from the version that is installed (``python -m tests.tables``), so that
nothing of it has to be imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from merge_assets.architecture.config import levels

TABLE = "spellings.json"

_COMPILED = re.compile(r"(?:^|(?<=\.))_orig_mod\.")
_PARALLEL = "module."


def is_of_training(names: Collection[str]) -> bool:
    """Whether wrappers of training are in the names: those of ``torch.compile`` in some, or of data parallelism in all."""
    return any(_COMPILED.search(name) for name in names) or _all_parallel(names)


def without_training(names: Collection[str]) -> dict[str, str]:
    """Each name without them."""
    parallel = _all_parallel(names)
    return {name: _COMPILED.sub("", name.removeprefix(_PARALLEL) if parallel else name) for name in names}


def respelled(
    names: Iterable[str], config: Mapping[str, Any], wanted: Iterable[str], other_config: Mapping[str, Any]
) -> dict[str, str]:
    """Names of one checkpoint that another spells otherwise, by the one and the only role that they can have.

    Args:
        names: of the checkpoint that the other lacks.
        config: of the checkpoint.
        wanted: names of the other checkpoint that the first lacks.
        other_config: of the other checkpoint.
    """
    there: dict[str, set[str]] = {}
    for name in wanted:
        for role in _roles(name, other_config):
            there.setdefault(role, set()).add(name)
    found: dict[str, list[str]] = {}
    for name in names:
        spelled = {other for role in _roles(name, config) for other in there.get(role, ())}
        if len(spelled) == 1:
            found.setdefault(spelled.pop(), []).append(name)
    return {own[0]: other for other, own in found.items() if len(own) == 1}


def _all_parallel(names: Collection[str]) -> bool:
    return bool(names) and all(name.startswith(_PARALLEL) for name in names)


def _roles(name: str, config: Mapping[str, Any]) -> set[str]:
    """The name without the modules around it, as it is and as transformers renames it when it loads the model."""
    renamed = name
    for pattern, replacement in _renames(*_kinds(config)):
        renamed = pattern.sub(replacement, renamed)
    return {_unwrapped(name), _unwrapped(renamed)}


def _unwrapped(name: str) -> str:
    first, _, rest = name.partition(".")
    while rest and first in _table()["wrappers"]:
        name = rest
        first, _, rest = name.partition(".")
    return name


def _kinds(config: Mapping[str, Any]) -> Iterator[str]:
    """Names by which transformers knows what a config describes: model types, and classes with their bodies."""
    for section in levels(dict(config)):
        if isinstance(kind := section.get("model_type"), str):
            yield kind
    named = config.get("architectures")
    for architecture in named if isinstance(named, list) else ():
        if isinstance(architecture, str):
            yield architecture
            yield re.sub(r"For[A-Z]\w*$|LMHeadModel$", "Model", architecture)


@lru_cache(maxsize=64)
def _renames(*kinds: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    renames = _table()["renames"]
    return tuple(
        (re.compile(pattern), replacement)
        for kind in dict.fromkeys(kinds)
        for pattern, replacement in renames.get(kind, ())
    )


@cache
def _table() -> dict[str, Any]:
    table = json.loads((files("merge_assets.architecture") / TABLE).read_text(encoding="utf-8"))
    return {**table, "wrappers": frozenset(table["wrappers"])}
