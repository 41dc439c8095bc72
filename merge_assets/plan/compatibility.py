"""What of the inputs' configs and tokenizers does not go together: the variant computes as the donor's config says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from merge_assets.checkpoint import Checkpoint, TensorHeader, Tokenizer, read_chat_template, read_tokenizer
from merge_assets.checkpoint.tokenizer import DOCUMENT
from merge_assets.errors import CheckpointError
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.problems import first_mention, plan_error
from merge_assets.plan.whole_numbers import COMPUTABLE
from merge_assets.recipe import Recipe

_SHAPES = ("num_attention_heads", "num_key_value_heads", "head_dim", "n_head", "n_heads", "num_heads")
"""How rows of a matrix are shared out among heads: where that differs, rows of equal number are no counterparts."""

_ARITHMETIC = re.compile(
    r"rope_|rotary|hidden_act|activation|eps$|epsilon|soft_?cap|multiplier|scaling|scale$|^scale_|sliding_window|chunk_size"
    r"|alibi|qk_norm|qk_layernorm|query_pre_attn_scalar|num_experts_per_tok|norm_topk_prob|topk_method|scoring_func"
)
_SHOWN = 4


_SIZES = (
    "hidden_size",
    "n_embd",
    "d_model",
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "num_key_value_heads",
    "head_dim",
)
"""Keys of a config that shapes follow from."""


def unlike_shapes(name: str, items: Sequence[PlanInput], headers: Sequence[TensorHeader]) -> str | None:
    """Why tensors of one role cannot be merged, which are of different shapes; ``None`` if they are not.

    Args:
        name: of the output tensor.
        items: the inputs.
        headers: of the tensor of each.
    """
    if len({header.shape for header in headers}) == 1:
        return None
    listing = "; ".join(f"{item.reference} {list(header.shape)}" for item, header in zip(items, headers, strict=True))
    message = f"shapes differ for tensor {name}: {listing}"
    configs = [item.checkpoint.config for item in items]
    if len({config.get("vocab_size") for config in configs}) > 1 and len({header.shape[1:] for header in headers}) == 1:
        return (
            f"{message}; the vocabularies differ: set `tokenizer: {{source: union}}`, or merge models of one vocabulary"
        )
    sizes = unlike_sizes(configs)
    return f"{message}{f'; {sizes}' if sizes else ''}; merge models of one architecture and size"


def without_elements(item: PlanInput, header: TensorHeader) -> str | None:
    """Why a weight without elements is not merged, which is what sharded training leaves in a file when it is not gathered
    first; ``None`` if it has elements."""
    if header.numel or header.dtype not in COMPUTABLE:
        return None
    return (
        f"tensor {header.name} of {item.reference} has no elements ({list(header.shape)}): the checkpoint was saved without "
        "gathering what training had sharded (ZeRO-3); save it again"
    )


def unlike_sizes(configs: Sequence[Mapping[str, Any]]) -> str:
    """The sizes that configs have otherwise, in words: ``hidden_size 32 and 16``; empty if they name none."""
    found = []
    levels = [_level(config) for config in configs]
    for key in _SIZES:
        values = dict.fromkeys(str(level.get(key, "none")) for level in levels)
        if len(values) > 1:
            found.append(f"{key} {' and '.join(values)}")
    return ", ".join(found)


def differences(recipe: Recipe, inputs: Sequence[PlanInput], models: Sequence[int], donor: int) -> list[str]:
    """A sentence for each model that computes otherwise than the donor, or that numbers tokens otherwise.

    Args:
        recipe: for errors, and whether it says what becomes of tokens.
        inputs: of the plan.
        models: indices of those that are merged.
        donor: index of the input that gives the config and the tokenizer.

    Raises:
        PlanError: if a model shares its rows out among other numbers of heads.
    """
    found, theirs = [], inputs[donor]
    base = dict(_settings(theirs.checkpoint.config))
    for number in models:
        item = inputs[number]
        own = dict(_settings(item.checkpoint.config))
        for key in _SHAPES:
            if own.get(key) is not None and base.get(key) is not None and own[key] != base[key]:
                raise plan_error(
                    recipe,
                    first_mention(recipe, item.reference),
                    f"{item.reference} has {key} {own[key]}, and {theirs.reference} {base[key]}: its rows belong to other "
                    "heads; merge models of one architecture and size",
                )
        unlike = [key for key in base.keys() | own.keys() if _is_unlike(key, own, base)]
        if unlike:
            named = "; ".join(
                f"{key} {_shown(own.get(key))} and {_shown(base.get(key))}" for key in sorted(unlike)[:_SHOWN]
            )
            more = f"; and {len(unlike) - _SHOWN} more" if len(unlike) > _SHOWN else ""
            found.append(
                f"{item.reference} computes otherwise than {theirs.reference}, whose config the variant has: {named}{more}"
            )
    if recipe.tokenizer is None and recipe.tokenizer_source is None:
        found += _tokens(inputs, [number for number in models if number != donor], donor)
        if recipe.chat_template is None:
            found += _templates(inputs, [number for number in models if number != donor], donor)
    return found


def _templates(inputs: Sequence[PlanInput], models: Sequence[int], donor: int) -> Iterator[str]:
    """Models on this machine that are asked in another format than the donor, whose chat template the variant has."""
    theirs = _template(inputs[donor].checkpoint) if models else None
    for number in models:
        own = _template(inputs[number].checkpoint)
        if own and theirs and own != theirs:
            yield (
                f"{inputs[number].reference} has another chat template than {inputs[donor].reference}, whose the variant has; "
                "`chat_template` decides (auto: the most common)"
            )
        elif own and not theirs:
            yield (
                f"{inputs[number].reference} has a chat template, and {inputs[donor].reference}, whose files the variant has, "
                "none; `chat_template: auto` takes it"
            )


def _level(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the settings of the language model stand."""
    section = config.get("text_config")
    return section if isinstance(section, Mapping) else config


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of the language model's arithmetic with their values; the two places of rotary settings are one."""
    for key, value in _level(config).items():
        if key in _SHAPES:
            yield key, value
        elif key in ("rope_parameters", "rope_scaling") and isinstance(value, Mapping):
            yield from ((f"rope_{name.removeprefix('rope_')}", one) for name, one in value.items() if name != "type")
        elif key != "rope_scaling" and _ARITHMETIC.search(key):
            yield key, value


def _is_unlike(key: str, own: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether both say it, and otherwise; where one says nothing it has its default, which is not known here."""
    if key in _SHAPES or key not in own or key not in base:
        return False
    return json.dumps(_number(own[key]), sort_keys=True) != json.dumps(_number(base[key]), sort_keys=True)


def _number(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _tokens(inputs: Sequence[PlanInput], models: Sequence[int], donor: int) -> Iterator[str]:
    """Models on this machine whose tokens have other numbers than the donor's."""
    base = inputs[donor].checkpoint
    raw = _raw(base) if models else None
    others = [(number, _raw(inputs[number].checkpoint)) for number in models] if raw is not None else []
    unlike = [number for number, own in others if own not in (None, raw)]
    theirs = _read(base) if unlike else None
    for number in unlike:
        own = _read(inputs[number].checkpoint)
        if own is None or theirs is None:
            continue
        moved = [text for text, place in own.ids.items() if theirs.ids.get(text, place) != place]
        if moved:
            first = min(moved, key=own.ids.__getitem__)
            yield (
                f"{inputs[number].reference} numbers {len(moved)} tokens otherwise than {inputs[donor].reference}: "
                f"{first!r} is {own.ids[first]} and {theirs.ids[first]}, so rows of different tokens are merged; set "
                "`tokenizer: {source: union}`"
            )


def _raw(checkpoint: Checkpoint) -> bytes | None:
    """A tokenizer's file, where it costs no network to read; one that cannot be read is carried as it is."""
    if DOCUMENT not in checkpoint.files or "://" in checkpoint.location or checkpoint.reader is None:
        return None
    with suppress(CheckpointError):
        return checkpoint.read(DOCUMENT)
    return None


def _template(checkpoint: Checkpoint) -> str | None:
    """A chat template, where it costs no network to read; one that cannot be read is carried as it is."""
    if "://" in checkpoint.location or checkpoint.reader is None:
        return None
    with suppress(CheckpointError):
        return read_chat_template(checkpoint)
    return None


def _read(checkpoint: Checkpoint) -> Tokenizer | None:
    with suppress(CheckpointError):
        return read_tokenizer(checkpoint)
    return None
