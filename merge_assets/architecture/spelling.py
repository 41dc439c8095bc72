"""Spellings of tensor names: one role under several names.

Files of one architecture spell names in several ways: with or without the names of wrapping modules (``model.``, ``bert.``,
``language_model.``), as transformers renamed modules over its versions, as training left them (``_orig_mod.``, ``module.``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from merge_assets.architecture.tables import model_types, read_table

TABLE = "spellings.json"

_COMPILED = re.compile(r"(?:^|(?<=\.))_orig_mod\.")
_PARALLEL = "module."
_OF_CODE = {
    "internlm2": (
        (r"(?:^|(?<=\.))tok_embeddings\.", "embed_tokens."),
        (r"^((?:language_model\.)?)output\.", r"\1lm_head."),
        (r"\.attention\.wo\.", ".self_attn.o_proj."),
        (r"\.attention\.(?=[qkv]_proj\.)", ".self_attn."),
        (r"\.feed_forward\.w1\.", ".mlp.gate_proj."),
        (r"\.feed_forward\.w2\.", ".mlp.down_proj."),
        (r"\.feed_forward\.w3\.", ".mlp.up_proj."),
        (r"\.attention_norm\.", ".input_layernorm."),
        (r"\.ffn_norm\.", ".post_attention_layernorm."),
    )
}
"""Names of families that bring their own code, and those of Llama's class, for which their authors convert them."""


def without_training(names: Collection[str]) -> dict[str, str]:
    """The names that wrappers of training are in, without these: ``torch.compile``'s in some, data parallelism's in all."""
    parallel = all(name.startswith(_PARALLEL) for name in names)
    plain = {name: _COMPILED.sub("", name.removeprefix(_PARALLEL) if parallel else name) for name in names}
    return {name: new for name, new in plain.items() if new != name}


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
    for name, called in roles(wanted, other_config):
        for role in called:
            there.setdefault(role, set()).add(name)
    found: dict[str, list[str]] = {}
    for name, called in roles(names, config):
        spelled = {other for role in called for other in there.get(role, ())}
        if len(spelled) == 1:
            found.setdefault(spelled.pop(), []).append(name)
    return {own[0]: other for other, own in found.items() if len(own) == 1}


def roles(names: Iterable[str], config: Mapping[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Each name, and without the modules around it: as it is and as transformers renames it when it loads the model."""
    renames = _renames(*_kinds(config))
    for name in names:
        renamed = name
        for pattern, replacement in renames:
            renamed = pattern.sub(replacement, renamed)
        yield name, {_unwrapped(name), _unwrapped(renamed)}


def fusions(config: Mapping[str, Any]) -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    """Projections that transformers keeps apart in one layout and together in another: how the latter is called, and with what
    each of its equal parts replaces that."""
    return _fusions(*_kinds(config))


def _unwrapped(name: str) -> str:
    first, _, rest = name.partition(".")
    while rest and first in _wrappers():
        name = rest
        first, _, rest = name.partition(".")
    return name


def _kinds(config: Mapping[str, Any]) -> Iterator[str]:
    """Names by which transformers knows what a config describes: model types, and classes with their bodies."""
    yield from model_types(config)
    named = config.get("architectures")
    for architecture in named if isinstance(named, list) else ():
        if isinstance(architecture, str):
            yield architecture
            yield re.sub(r"For[A-Z]\w*$|LMHeadModel$", "Model", architecture)


@lru_cache(maxsize=64)
def _renames(*kinds: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    renames = read_table(TABLE)["renames"]
    return tuple(
        (re.compile(pattern), replacement)
        for kind in dict.fromkeys(kinds)
        for pattern, replacement in (*renames.get(kind, ()), *_OF_CODE.get(kind, ()))
    )


@lru_cache(maxsize=64)
def _fusions(*kinds: str) -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    known = read_table(TABLE)["fusions"]
    return tuple(
        (re.compile(rf"(?<![^.]){pattern}" if pattern[0].isalnum() else pattern), tuple(targets))  # whole words
        for kind in dict.fromkeys(kinds)
        for pattern, targets in known.get(kind, ())
    )


@cache
def _wrappers() -> frozenset[str]:
    return frozenset(read_table(TABLE)["wrappers"])
