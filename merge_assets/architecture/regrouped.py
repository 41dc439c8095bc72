"""Matrices that files keep apart or together: which rows of which tensors make a tensor of another spelling.

One checkpoint has query, key and value in one matrix, or gate and up, another has them apart; one numbers experts, another
stacks them, also transposed. What a tensor holds is told as its *pieces*: each a matrix that could be alone, by the name that
it would have alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.architecture.experts import with_expert
from merge_assets.architecture.fused import BY_TABLE_ALONE, fused, has_columns_out
from merge_assets.architecture.sizes import Sizes
from merge_assets.architecture.spelling import fusions, roles

Shape = tuple[int, ...]

_STACK = re.compile(r"experts\.(gate_up_proj|gate_proj|up_proj|down_proj)(\.weight)?$")
_NUMBERED = re.compile(r"(experts\.\d+\.)(w1|w2|w3)\b")
_PLAIN = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@dataclass(frozen=True)
class MatrixRows:
    """Rows of a tensor that could be a tensor of their own.

    Attributes:
        tensor: the tensor.
        first: the first of the rows, counted over all leading dimensions.
        rows: how many.
        columns: length of a row.
        turned: whether the rows are those of a stack whose matrices are transposed first.
    """

    tensor: str
    first: int
    rows: int
    columns: int
    turned: bool = False


@dataclass(frozen=True)
class Regrouped:
    """How a tensor is made of rows of others.

    Attributes:
        pieces: in order.
        turned: whether each matrix of what they make is transposed then.
    """

    pieces: tuple[MatrixRows, ...]
    turned: bool


@dataclass(frozen=True)
class Held:
    """A tensor whose pieces are looked for.

    Attributes:
        name: its name.
        shape: its shape.
        sizes: of the layers that it is of.
    """

    name: str
    shape: Shape
    sizes: Sizes


def regrouped(
    own: Iterable[Held], config: Mapping[str, Any], wanted: Iterable[Held], other_config: Mapping[str, Any]
) -> dict[str, Regrouped]:
    """Tensors of one checkpoint as another groups them; whoever gives a part of a tensor gives all of it.

    Args:
        own: tensors of the checkpoint that the other lacks.
        config: of the checkpoint.
        wanted: tensors of the other checkpoint that the first lacks.
        other_config: of the other checkpoint.
    """
    there: dict[str, set[MatrixRows]] = {}
    heights: dict[str, int] = {}
    for held in own:
        for called, piece in _pieces(held, config):
            heights[held.name] = heights.get(held.name, 0) + piece.rows
            for role in called:
                there.setdefault(role, set()).add(piece)
    found: dict[str, Regrouped] = {}
    for held in wanted:
        theirs = list(_pieces(held, other_config))
        pieces = [_counterpart(called, piece, there) for called, piece in theirs]
        if all(pieces):
            found[held.name] = Regrouped(tuple(piece for piece in pieces if piece), theirs[0][1].turned)
    while True:
        given = Counter[str]()
        for one in found.values():
            for piece in one.pieces:
                given[piece.tensor] += piece.rows
        torn = {name for name, rows in given.items() if rows != heights[name]}
        kept = {name: one for name, one in found.items() if not any(piece.tensor in torn for piece in one.pieces)}
        if len(kept) == len(found):
            return found
        found = kept


def _counterpart(called: set[str], wanted: MatrixRows, there: Mapping[str, set[MatrixRows]]) -> MatrixRows | None:
    fitting = {piece for role in called for piece in there.get(role, ())}
    if len(fitting) != 1:
        return None
    (piece,) = fitting
    return piece if (piece.rows, piece.columns) == (wanted.rows, wanted.columns) else None


def _pieces(held: Held, config: Mapping[str, Any]) -> Iterator[tuple[set[str], MatrixRows]]:
    """Every piece of a tensor with its roles, in order."""
    alone = list(_split(held, config))
    for (_, piece), (_, called) in zip(alone, roles((name for name, _ in alone), config), strict=True):
        yield {_NUMBERED.sub(lambda found: found[1] + _PLAIN[found[2]], role) for role in called}, piece


def _split(held: Held, config: Mapping[str, Any]) -> Iterator[tuple[str, MatrixRows]]:
    """Every piece of a tensor with the name that it would have alone."""
    name, shape = held.name, held.shape
    stack = _STACK.search(name)
    if stack and len(shape) == 3:
        yield from _of_stack(held, stack[1])
        return
    rows, columns = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (math.prod(shape), 1)
    parts = _parts(held, rows, config) or {name: (0, rows)}
    for part, (first, end) in parts.items():
        yield part, MatrixRows(name, first, end - first, columns)


def _of_stack(held: Held, leaf: str) -> Iterator[tuple[str, MatrixRows]]:
    experts, rows, columns = held.shape
    turned = has_columns_out((rows, columns), held.sizes, inwards=leaf == "down_proj")
    if turned is None:
        yield held.name, MatrixRows(held.name, 0, experts * rows, columns)
        return
    if turned:
        rows, columns = columns, rows
    leaves = ("gate_proj", "up_proj") if leaf == "gate_up_proj" and rows % 2 == 0 else (leaf,)
    stem = held.name.removesuffix(".weight").removesuffix(leaf)
    each = rows // len(leaves)
    for expert in range(experts):
        for place, part in enumerate(leaves):
            piece = MatrixRows(held.name, expert * rows + place * each, each, columns, turned)
            yield with_expert(f"{stem}{part}.weight", expert), piece


def _parts(held: Held, rows: int, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """First and last row of each projection in a fused one, by the name that it would have alone."""
    for pattern, targets in fusions(config):
        if pattern.search(held.name) and rows % len(targets) == 0:
            each = rows // len(targets)
            return {
                pattern.sub(target, held.name): (place * each, (place + 1) * each)
                for place, target in enumerate(targets)
            }
    stem, dot, kind = held.name.rpartition(".")
    parent, _, leaf = stem.rpartition(".")
    if kind not in ("weight", "bias") or leaf in BY_TABLE_ALONE or len(held.shape) > 2:
        return {}
    columns = held.shape[1] if len(held.shape) == 2 else held.sizes.hidden
    found = fused(leaf, (rows, columns), held.sizes)
    cuts = found.cuts if found is not None else None
    if not cuts or any(axis or len(spans) > 1 or spans[0][2] > 1 for axis, spans in cuts.values()):
        return {}
    return {f"{parent}.{part}{dot}{kind}": spans[0][:2] for part, (_, spans) in cuts.items()}
