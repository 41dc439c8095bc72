"""Which matrices of a checkpoint are scored, and where each lies in the stored tensors.

A stored tensor is one matrix, a fused one (query, key and value in one; gate and up in one), a stack of one
matrix per expert, or both. The config says how a fused tensor is laid out; where it does not, the tensor is
scored whole and a note says so. No weight is read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from merge_assets.architecture import LayerStack
from merge_assets.architecture.experts import expert_of, matrices_in, with_expert
from merge_assets.architecture.fused import Fused, Span, fused
from merge_assets.architecture.sizes import Sizes
from merge_assets.checkpoint import Checkpoint, TensorHeader
from merge_assets.errors import AnalysisError

READABLE = ("BF16", "F16", "F32", "F64")
"""Storage types that hold a weight's values without a separate scale."""


@dataclass(frozen=True)
class Matrix:
    """One matrix to be scored.

    Attributes:
        name: its tensor name; that of the stored tensor unless it was split off.
        module: the name inside its layer, without ``.weight`` and the expert's number: ``mlp.experts.up_proj``.
        stack: prefix of its layer stack, ``None`` for a weight outside the layers.
        layer: index of the layer in its stack, ``None`` outside.
        expert: index of the expert, ``None`` if it belongs to none.
        source: the stored tensor.
        block: rows and columns of the stored matrix that holds it (one expert's, if they are stacked).
        offset: elements of the stored tensor that precede the block.
        axis: 0 if ``spans`` are rows, 1 if they are columns.
        spans: the rows or columns of the block that belong to it, in order.
    """

    name: str
    module: str
    stack: str | None
    layer: int | None
    expert: int | None
    source: TensorHeader
    block: tuple[int, int]
    offset: int
    axis: int
    spans: tuple[Span, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of this matrix."""
        count = sum(len(range(*span)) for span in self.spans)
        return (count, self.block[1]) if self.axis == 0 else (self.block[0], count)

    @property
    def nbytes(self) -> int:
        """Bytes of this matrix as stored."""
        return math.prod(self.shape) * (self.source.nbytes // self.source.numel)

    @property
    def whole(self) -> bool:
        """Whether it is the stored tensor itself."""
        return math.prod(self.shape) == self.source.numel


@dataclass(frozen=True)
class MatricesToScore:
    """What an analysis will score.

    Attributes:
        matrices: the matrices, grouped by stored tensor, in file order.
        notes: tensor name -> why it is not scored, or is scored whole although it is fused.
    """

    matrices: tuple[Matrix, ...]
    notes: Mapping[str, str]


def select(checkpoint: Checkpoint, modules: Sequence[str] | None) -> MatricesToScore:
    """The matrices of a checkpoint to be scored.

    Args:
        checkpoint: an opened checkpoint.
        modules: substrings of tensor names that begin a word, such as ``v_proj`` or ``self_attn.v_proj`` (so ``v_proj``
            is not found in ``qkv_proj``); a fused tensor is found under its own name and those of its parts. ``None``:
            every matrix of every layer stack, without embeddings and output head.

    Raises:
        AnalysisError: no weight matches one of ``modules``, or there is no matrix in any layer.
    """
    matrices: list[Matrix] = []
    notes: dict[str, str] = {}
    known: set[str] = set()
    unused = dict.fromkeys(modules or ())
    for header in checkpoint.tensors.values():
        found, note = _matrices(checkpoint, header)
        known.update(matrix.module for matrix in found)
        chosen = [matrix for matrix in found if _is_chosen(matrix, modules, unused)]
        matrices.extend(chosen)
        if note and (chosen or (not found and (modules is None or any(_names(text, header.name) for text in modules)))):
            notes[header.name] = note
    if unused or not matrices:
        what = ", ".join(repr(text) for text in unused) or "any layer"
        raise AnalysisError(
            f"{checkpoint.location}: no two-dimensional weight matches {what}; "
            f"weights that can be named: {', '.join(sorted(known)) or 'none'}"
        )
    return MatricesToScore(tuple(matrices), notes)


def _is_chosen(matrix: Matrix, modules: Sequence[str] | None, unused: dict[str, None]) -> bool:
    if modules is None:
        return matrix.layer is not None
    hits = [text for text in modules if _names(text, matrix.name) or _names(text, matrix.source.name)]
    for text in hits:
        unused.pop(text, None)
    return bool(hits)


def _names(text: str, name: str) -> bool:
    """Whether a name has the text where no letter or digit precedes it."""
    start = r"(?<![A-Za-z0-9])" if text[:1].isalnum() else ""
    return re.search(start + re.escape(text), name) is not None


def _matrices(checkpoint: Checkpoint, header: TensorHeader) -> tuple[list[Matrix], str | None]:
    """The matrices in a stored tensor, and why there is none or why it was not split."""
    shape = header.shape
    leaf = header.name.removesuffix(".weight").rpartition(".")[2]
    if len(shape) < 2 or leaf.endswith("bias") or "scale" in leaf:
        return [], None
    stack, layer, suffix = _place(checkpoint.stacks, header.name)
    if min(shape) < 2:
        return [], f"shape {list(shape)} is a vector" if stack else None
    if header.dtype not in READABLE:
        return [], f"stored as {header.dtype}; scores need one of {', '.join(READABLE)}"
    sizes = Sizes(checkpoint.config, stack)
    blocks = matrices_in(header.name, shape, sizes)
    if not blocks:
        return [], f"shape {list(shape)} is neither a matrix nor a stack of experts"
    numbered = expert_of(suffix)
    matrices: list[Matrix] = []
    note: str | None = None
    for index, (expert, block) in enumerate(blocks):
        name, inside = header.name if expert is None else with_expert(header.name, expert), suffix
        if expert is None and numbered:
            inside, expert = numbered
        whole = Matrix(
            name=name,
            module=inside.removesuffix(".weight"),
            stack=stack.prefix if stack else None,
            layer=layer,
            expert=expert,
            source=header,
            block=block,
            offset=index * math.prod(block),
            axis=0,
            spans=((0, block[0], 1),),
        )
        several = fused(leaf, block, sizes)
        if several is not None and several.cuts is None:
            note = f"{leaf} of shape {list(block)} is scored whole: the config does not say how {several.what} are laid out"
        matrices += _cut(whole, leaf, several)
    return matrices, note


def _cut(whole: Matrix, leaf: str, several: Fused | None) -> list[Matrix]:
    """The matrices that are fused in one, or itself where there are none or nobody knows."""
    cuts = several.cuts if several is not None else None
    return [
        replace(
            whole,
            name=_renamed(whole.name, leaf, new),
            module=_renamed(whole.module, leaf, new),
            axis=axis,
            spans=spans,
        )
        for new, (axis, spans) in (cuts or {}).items()
    ] or [whole]


def _place(stacks: Sequence[LayerStack], name: str) -> tuple[LayerStack | None, int | None, str]:
    for stack in stacks:
        found = stack.split(name)
        if found:
            return stack, found[0], found[1]
    return None, None, name


def _renamed(name: str, leaf: str, new: str) -> str:
    head, _, tail = name.rpartition(leaf)
    return f"{head}{new}{tail}"
