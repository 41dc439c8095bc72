"""What the tensors outside the layers are, told from their names: embedding, head, what goes before and behind the layers.

Whoever asks one of these questions asks it here. Names are those of files, shapes those of stored tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from merge_assets.architecture.stacks import split_number
from merge_assets.architecture.towers import tower_of

Shape = tuple[int, ...]

_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings?|embed_in|tok_embeddings|tokens_embed|token_embedding|input_embedding"
    r"|shared|embeddings|embedding)\.weight$"
)
_OF_WORDS = re.compile(r"word_embeddings?\.weight$")
"""Those of VisualBERT, whose every tensor has a word of a tower."""
_HEAD = re.compile(r"(?:head|embed_out|proj_out|predictions\.decoder)\.weight$")
_NOT_OF_TOKENS = re.compile(r"(?:norm|ln_)[^.]*\.(?:weight|bias)$|pos|wpe|token_type|patch|score|classif")
_OF_TOKENS = re.compile(r"embed|wte|shared\.weight|head|logits|predictions|proj_out|(decoder|output)\.(weight|bias)$")
_OF_TOKENS_IN_LAYERS = re.compile(r"(embed_tokens|lm_head|shared_head\.head)\.(weight|bias)$")
_ON_THE_WAY_IN = re.compile(r"embed(?!_out)|wte|wpe|shared")
_ON_THE_WAY_OUT = re.compile(r"norm|ln_f|head|pooler|classifier|score|output|embed_out|proj_out|predictions|\bmtp\b")
_BUFFER = re.compile(
    r"(?:position_ids|token_type_ids|num_batches_tracked|relative_position_index|attn\.(?:masked_)?bias"
    r"|inv_freq|freqs_cis|(?:cos|sin)_cached)$"
)
_TASK_HEAD = re.compile(
    r"(?:^|\.)(?:mtp|nextn|medusa_head|eagle|score|classifier|classification_head|qa_outputs|pooler|v_head|value_head|reward_head"
    r"|lm_head|cls|embed_out|proj_out|predictions|seq_relationship|logits_proj|summary|sequence_summary|score_head|vocab_\w+)\."
    r"|(?:^|\.)decoder\.(?:weight|bias)$"  # of masked words
)
_OF_LAYERS = {"embed_tokens_per_layer.weight": 1, "per_layer_model_projection.weight": 0}
_PREDICTION = re.compile(r"(?:^|\.)(?:mtp|nextn)\.")
_LEFTOVER = re.compile(r"(?:^|\.)(?:lora_\w+|modules_to_save|original_module|ia3_l|adapter_\w+)\.")


def is_embedding(name: str) -> bool:
    """Whether a matrix of this name embeds tokens: not positions or token types, nor what a tower sees or hears."""
    return _EMBEDDING.search(name) is not None and not _is_of_something_else(name)


def is_head(name: str) -> bool:
    """Whether a matrix of this name is an output head, which gives a score to every token and may be tied to the embedding."""
    return _HEAD.search(name) is not None


def may_have_row_per_token(name: str) -> bool:
    """Whether a tensor of this name has a row for every token, if it has as many rows.

    Embeddings, heads and their biases have; within layers, only those of multi-token prediction.
    """
    pattern = _OF_TOKENS if split_number(name) is None else _OF_TOKENS_IN_LAYERS
    return pattern.search(name) is not None and not _is_of_something_else(name)


def is_after_layers(name: str) -> bool:
    """Whether a tensor outside the layers belongs behind them.

    Norms, heads and poolers do that are not part of an embedding, whatever it embeds; all else goes before, layers of a tower
    that the config does not count included.
    """
    if _ON_THE_WAY_IN.search(name):
        return False
    numbered = split_number(name)
    if numbered is not None and tower_of(numbered[0]) is not None:
        return False
    return _ON_THE_WAY_OUT.search(name) is not None


def axis_of_layers(name: str) -> int | None:
    """Along which axis a tensor outside the layers holds a block for each of them (Gemma 3n, Gemma 4); ``None`` for others."""
    return next((axis for suffix, axis in _OF_LAYERS.items() if name.endswith(suffix)), None)


def is_buffer(name: str) -> bool:
    """Whether a tensor is a table or mask that the architecture fixes, which is carried where it cannot be averaged."""
    return _BUFFER.search(name) is not None


def is_task_head(name: str) -> bool:
    """Whether a tensor is of a head: what predicts tokens, further tokens (MTP), classes or scores from the last states."""
    return _TASK_HEAD.search(name) is not None


def is_prediction(name: str) -> bool:
    """Whether a tensor is of what predicts tokens beyond the next one, where its name says so."""
    return _PREDICTION.search(name) is not None


def is_leftover(name: str) -> bool:
    """Whether a tensor is what training with an adapter left in a checkpoint that is no adapter."""
    return _LEFTOVER.search(name) is not None


def embedding_among(shapes: Mapping[str, Shape]) -> str | None:
    """The embedding of tokens: of the matrices called so, the one with most rows; ``None`` if there is none or no single one.

    Multi-token prediction has copies of it, which are numbered and do not count.
    """
    rows = {
        name: shape[0]
        for name, shape in shapes.items()
        if len(shape) == 2 and is_embedding(name) and split_number(name) is None
    }
    most = max(rows.values(), default=0)
    largest = [name for name, count in rows.items() if count == most]
    return largest[0] if len(largest) == 1 else None


def is_tied(config: Mapping[str, Any], shapes: Iterable[Shape]) -> bool:
    """Whether the output head shares the embedding's weights.

    ``tie_word_embeddings`` of the config, or of its language model's section, decides. Configs leave the key out where it has
    its default, which differs between architectures; then the weights decide: with fewer than two matrices of a row per token
    outside the layers, there is no separate head.

    Args:
        config: the content of ``config.json``.
        shapes: of the tensors outside the layers.
    """
    for section in (config, *_with_vocabulary(config)):
        if isinstance(section.get("tie_word_embeddings"), bool):
            return bool(section["tie_word_embeddings"])
    vocabulary = next(iter(vocabulary_sizes(config)), 0)
    return vocabulary > 0 and sum(len(shape) == 2 and shape[0] >= vocabulary for shape in shapes) < 2


def vocabulary_sizes(config: Mapping[str, Any]) -> list[int]:
    """Every ``vocab_size`` of a config, those of its sections first."""
    sizes = [section.get("vocab_size") for section in (*_with_vocabulary(config), config)]
    return [size for size in sizes if type(size) is int and size > 0]


def _with_vocabulary(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for value in config.values() if isinstance(value, Mapping) and "vocab_size" in value]


def _is_of_something_else(name: str) -> bool:
    if _OF_WORDS.search(name):
        return False
    return _NOT_OF_TOKENS.search(name) is not None or tower_of(name) is not None
