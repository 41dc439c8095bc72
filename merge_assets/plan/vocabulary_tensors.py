"""Which tensors have a row for every token: embeddings, heads and their biases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from merge_assets.checkpoint import Checkpoint, TensorHeader

_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared|embeddings|embedding)\.weight$"
)
_ELSEWHERE = re.compile(r"norm|ln_|pos|wpe|token_type|vision|visual|patch|image|audio|score|classif")
_OUTSIDE = re.compile(r"embed|wte|shared\.weight|head|logits|predictions|proj_out|(decoder|output)\.(weight|bias)$")
_INSIDE = re.compile(r"(embed_tokens|lm_head|shared_head\.head)\.(weight|bias)$")
_IN_LAYER = re.compile(r"\.\d+\.")
_HEAD = re.compile(r"head\.weight$|embed_out\.weight$")


class Embeddings:
    """The tensors of some checkpoints that have a row for every token."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._checkpoints = checkpoints
        self._headers = [_embedding(checkpoint) for checkpoint in checkpoints]
        self._sizes = [
            {*vocabulary_sizes(checkpoint.config), *([header.shape[0]] if header else [])}
            for checkpoint, header in zip(checkpoints, self._headers, strict=True)
        ]

    def count(self, model: int) -> int | None:
        """Rows of a checkpoint's embedding, ``None`` if it has none that is known as one."""
        header = self._headers[model]
        return header.shape[0] if header is not None else None

    def is_indexed(self, model: int, header: TensorHeader) -> bool:
        """Whether a tensor of a checkpoint has a row for every token.

        Its first dimension is the embedding's or the config's ``vocab_size``, and its name is that of an embedding, a
        head, or a bias of one; within layers, only multi-token prediction has such tensors.
        """
        if len(header.shape) not in (1, 2) or rows_of(header) not in self._sizes[model]:
            return False
        if _ELSEWHERE.search(header.name):
            return False
        return (_INSIDE if _IN_LAYER.search(header.name) else _OUTSIDE).search(header.name) is not None

    def counterpart(self, model: int, name: str, header: TensorHeader) -> TensorHeader | None:
        """The tensor of another checkpoint that stands where ``header`` stands in its own.

        Args:
            model: the other checkpoint.
            name: name of the output that ``header`` is an input of.
            header: a tensor with a row for every token.
        """
        tensors = self._checkpoints[model].tensors
        found = tensors.get(header.name if _IN_LAYER.search(name) else name)
        if found is None and _HEAD.search(name) and self._checkpoints[model].tied:
            return self._headers[model]
        return found


def rows_of(header: TensorHeader) -> int:
    """Rows of a tensor that has one for every token; BART's bias of the logits is a single row of its columns."""
    return header.shape[1] if _is_column_wise(header) else header.shape[0]


def with_rows(header: TensorHeader, rows: int) -> tuple[int, ...]:
    """The shape of a tensor that has a row for every token, with another number of them."""
    return (1, rows) if _is_column_wise(header) else (rows, *header.shape[1:])


def _is_column_wise(header: TensorHeader) -> bool:
    return len(header.shape) == 2 and header.shape[0] == 1 and header.name.endswith("logits_bias")


def _embedding(checkpoint: Checkpoint) -> TensorHeader | None:
    """The input embedding: of the tensors called so, the one with the most rows."""
    found = [
        tensor
        for name, tensor in checkpoint.tensors.items()
        if len(tensor.shape) == 2 and _EMBEDDING.search(name) and not _ELSEWHERE.search(name)
    ]
    return max(found, key=lambda tensor: tensor.shape[0], default=None)


def vocabulary_sizes(config: Mapping[str, object]) -> list[int]:
    """Every ``vocab_size`` of a config and its sections."""
    sections = [value for value in config.values() if isinstance(value, dict)]
    sizes = [section.get("vocab_size") for section in (config, *sections)]
    return [size for size in sizes if type(size) is int and size > 0]
