"""Tensors outside the repeated layers: embeddings, final norms, heads, and whatever else a checkpoint has.

Which side of the layers a tensor is on matters only when the first and the last slice have different sources. It is
told from its name (:func:`~merge_assets.architecture.anatomy.is_after_layers`); prediction heads numbered beyond the last layer
come after the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from merge_assets.architecture.anatomy import is_after_layers, is_embedding, is_head
from merge_assets.checkpoint import Checkpoint, TensorHeader


@dataclass(frozen=True)
class OutsideTensor:
    """One tensor outside the layers.

    Attributes:
        name: in the output.
        headers: of the tensor in every source; ``None`` where a source lacks it.
        beyond: whether it is of a layer beyond the last, which predicts further tokens.
    """

    name: str
    headers: tuple[TensorHeader | None, ...]
    beyond: bool = False


def outside_tensors(
    checkpoints: Sequence[Checkpoint], part: str, *, layers: int, after: bool | None = None
) -> list[OutsideTensor]:
    """Tensors of a part outside its layers.

    A head that some sources tie to their embedding and others store is found in both: the tied ones give their
    embedding for it. Prediction heads are numbered on from the output's last layer.

    Args:
        checkpoints: one per source of the slice.
        part: name of the part.
        layers: number of the part's layers in the output.
        after: only those behind the layers, only those before them, or ``None`` for both.

    Returns:
        In the first checkpoint's file order, then those that only later ones have.
    """
    found: dict[str, list[TensorHeader | None]] = {}
    beyond: set[str] = set()
    for place, checkpoint in enumerate(checkpoints):
        for name, header, behind, further in _outputs(checkpoint, part, layers):
            if after is None or behind is after:
                found.setdefault(name, [None] * len(checkpoints))[place] = header
                if further:
                    beyond.add(name)
    for name, headers in found.items():
        if is_embedding(name):  # which an encoder and a decoder share
            for place, checkpoint in enumerate(checkpoints):
                if headers[place] is None and name in checkpoint.outside:
                    headers[place] = checkpoint.tensors[name]
        if is_head(name):
            width = next(header.shape[1:] for header in headers if header is not None)
            for place, checkpoint in enumerate(checkpoints):
                headers[place] = headers[place] or _tied_to(checkpoint, width)
    return [OutsideTensor(name, tuple(headers), name in beyond) for name, headers in found.items()]


def tied_output(donor: Checkpoint, names: set[str]) -> bool | None:
    """Value of ``tie_word_embeddings`` for an output with these tensor names; ``None`` leaves the donor's."""
    if donor.tied:
        stored = any(name not in donor.tensors for name in names if is_head(name))
        return False if stored else None
    lost = any(name not in names for name in _language_outside(donor) if is_head(name))
    return True if lost else None


def _outputs(checkpoint: Checkpoint, name: str, layers: int) -> Iterator[tuple[str, TensorHeader, bool, bool]]:
    """Every tensor of a part outside its layers: its name in the output, header, whether it is behind the layers, and whether
    it is of a layer beyond the last."""
    part = checkpoint.part(name)
    if part is None:
        return
    for tensor in part.outside:
        header = checkpoint.tensors[tensor]
        numbered = ((stack, stack.split_tail(tensor)) for stack in part.stacks)
        beyond = next(((stack, place) for stack, place in numbered if place is not None), None)
        if beyond is None:
            yield tensor, header, is_after_layers(tensor), False
        else:
            stack, (number, suffix) = beyond
            yield stack.join(layers + number, suffix), header, True, True


def _language_outside(checkpoint: Checkpoint) -> list[str]:
    return [name for part in checkpoint.parts if not part.is_tower for name in part.outside]


def _tied_to(checkpoint: Checkpoint, width: tuple[int, ...]) -> TensorHeader | None:
    """The embedding that a head of this width is tied to."""
    embedding = checkpoint.shared_embedding
    return embedding if embedding is not None and embedding.shape[1:] == width else None
