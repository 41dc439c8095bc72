"""Tensors outside the repeated layers: embeddings, final norms, heads, and whatever else a checkpoint has.

Which side of the layers a tensor is on matters only when the first and the last slice have different sources. It is
told from its name: norms, heads and poolers that are not part of an embedding come after the layers, all else before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from merge_assets.checkpoint import Checkpoint, TensorHeader

_EMBEDDING = re.compile(r"embed|wte|wpe")
_HEAD = re.compile(r"head\.weight$")
_AFTER = re.compile(r"norm|ln_f|head|pooler|classifier|score|output")


@dataclass(frozen=True)
class OutsideTensor:
    """One tensor outside the layers with its header in every source; ``None`` where a source lacks it."""

    name: str
    headers: tuple[TensorHeader | None, ...]


def is_after_layers(name: str) -> bool:
    """Whether a tensor outside the layers belongs behind them."""
    return not _EMBEDDING.search(name) and _AFTER.search(name) is not None


def outside_tensors(checkpoints: Sequence[Checkpoint], part: str) -> list[OutsideTensor]:
    """Tensors on one side of the layers.

    A head that some sources tie to their embedding and others store is found in both: the tied ones give their
    embedding for it.

    Args:
        checkpoints: one per source of the slice.
        part: ``"pre"`` or ``"post"``.

    Returns:
        In the first checkpoint's file order, then those that only later ones have.
    """
    names: dict[str, None] = {}
    for checkpoint in checkpoints:
        for name in _outside_names(checkpoint):
            if is_after_layers(name) == (part == "post"):
                names[name] = None
    return [OutsideTensor(name, tuple(_header(c, name, checkpoints) for c in checkpoints)) for name in names]


def tied_output(donor: Checkpoint, names: set[str]) -> bool | None:
    """Value of ``tie_word_embeddings`` for an output with these tensor names; ``None`` leaves the donor's."""
    if donor.tied:
        stored = any(name not in donor.tensors for name in names if _HEAD.search(name))
        return False if stored else None
    lost = any(name not in names for name in _outside_names(donor) if _HEAD.search(name))
    return True if lost else None


def _outside_names(checkpoint: Checkpoint) -> list[str]:
    stack = checkpoint.stacks[0] if checkpoint.stacks else None
    return [name for name in checkpoint.tensors if stack is None or stack.split(name) is None]


def _header(checkpoint: Checkpoint, name: str, checkpoints: Sequence[Checkpoint]) -> TensorHeader | None:
    header = checkpoint.tensors.get(name)
    if header is not None or not checkpoint.tied or not _HEAD.search(name):
        return header
    width = next(c.tensors[name].shape[1:] for c in checkpoints if name in c.tensors)
    embeddings = [
        checkpoint.tensors[n]
        for n in _outside_names(checkpoint)
        if _EMBEDDING.search(n) and checkpoint.tensors[n].shape[1:] == width
    ]
    return embeddings[0] if len(embeddings) == 1 else None
