"""Which tensors have a row for every token: embeddings, heads and their biases."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.architecture.anatomy import is_embedding, is_head, may_have_row_per_token, vocabulary_sizes
from merge_assets.architecture.stacks import split_number
from merge_assets.checkpoint import Checkpoint, TensorHeader


class Embeddings:
    """The tensors of some checkpoints that have a row for every token."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._checkpoints = checkpoints
        self._rows = [_rows(checkpoint) for checkpoint in checkpoints]
        self._sizes = [
            {*vocabulary_sizes(checkpoint.config), rows}
            for checkpoint, rows in zip(checkpoints, self._rows, strict=True)
        ]

    def count(self, model: int) -> int | None:
        """Rows of a checkpoint's embedding, ``None`` if it has none that is known as one."""
        return self._rows[model]

    def is_indexed(self, model: int, header: TensorHeader) -> bool:
        """Whether a tensor of a checkpoint has a row for every token.

        Its first dimension is the embedding's or the config's ``vocab_size``, and its name is that of an embedding, a
        head, or a bias of one; within layers, only multi-token prediction has such tensors.
        """
        if len(header.shape) not in (1, 2) or rows_of(header) not in self._sizes[model]:
            return False
        return may_have_row_per_token(header.name)

    def counterpart(self, model: int, name: str, header: TensorHeader) -> TensorHeader | None:
        """The tensor of another checkpoint that stands where ``header`` stands in its own.

        Args:
            model: the other checkpoint.
            name: name of the output that ``header`` is an input of.
            header: a tensor with a row for every token.
        """
        tensors = self._checkpoints[model].tensors
        found = tensors.get(name if split_number(name) is None else header.name)
        return self._checkpoints[model].shared_embedding if found is None and is_head(name) else found


def rows_of(header: TensorHeader) -> int:
    """Rows of a tensor that has one for every token; BART's bias of the logits is a single row of its columns."""
    return header.shape[1] if _is_column_wise(header) else header.shape[0]


def with_rows(header: TensorHeader, rows: int) -> tuple[int, ...]:
    """The shape of a tensor that has a row for every token, with another number of them."""
    return (1, rows) if _is_column_wise(header) else (rows, *header.shape[1:])


def _is_column_wise(header: TensorHeader) -> bool:
    return len(header.shape) == 2 and header.shape[0] == 1 and header.name.endswith("logits_bias")


def _rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the embedding: of the matrices called so, the most."""
    found = (
        tensor.shape[0] for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2 and is_embedding(name)
    )
    return max(found, default=None)
