"""Matrices that files keep apart or together: which rows of which tensors make a tensor of another spelling.

One checkpoint has query, key and value in one matrix, or gate and up, one after the other or by turns, another has them apart;
one numbers experts, another stacks them, also transposed, also row below row. What a tensor holds is told as its *pieces*: each
a matrix that could be alone, by the name that it would have alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from merge_assets.architecture.experts import with_expert
from merge_assets.architecture.fused import PROJECTIONS, Span, alternate, fused, has_columns_out
from merge_assets.architecture.sizes import Sizes
from merge_assets.architecture.spelling import fusions, roles

Shape = tuple[int, ...]

_STACK = re.compile(r"experts\.(gate_up_proj|gate_proj|up_proj|down_proj)(\.weight)?$")
_STACK_OF_BIASES = re.compile(r"experts\.(gate_up_proj|gate_proj|up_proj|down_proj)(?:_bias|\.bias)$")
_ROW_BELOW_ROW = re.compile(r"experts\.mlp\.(w1|v1|w2)$")
"""DBRX: experts of a layer in one matrix, the last one with a column for every output."""
_NUMBERED = re.compile(r"experts\.(?:mlp\.|mlp_experts\.)?(\d+\.)(w1|w2|w3|v1)\b")
_PLAIN = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj", "v1": "up_proj"}
_MOST_SCATTERED = 1 << 18
"""How many rows are taken out from between others at most, since each of them is in the plan."""


@dataclass(frozen=True)
class MatrixRows:
    """Rows of a tensor that could be a tensor of their own.

    Attributes:
        tensor: the tensor.
        spans: the rows in order, counted over all leading dimensions.
        columns: length of a row.
        stack: shape of the tensor as a stack whose matrices are transposed before rows are counted; ``None`` where they are
            not.
    """

    tensor: str
    spans: tuple[Span, ...]
    columns: int
    stack: Shape | None = None

    @property
    def rows(self) -> int:
        """How many."""
        return sum(len(range(*span)) for span in self.spans)

    @property
    def is_scattered(self) -> bool:
        """Whether rows of something else lie between any two."""
        return any(step > 1 for _, _, step in self.spans)


@dataclass(frozen=True)
class RowRun:
    """Rows of a tensor that stay beside each other.

    Attributes:
        tensor: the tensor.
        stack: as in :class:`MatrixRows`.
        first: the first of the rows.
        count: how many.
    """

    tensor: str
    stack: Shape | None
    first: int
    count: int


@dataclass(frozen=True)
class Regrouped:
    """How a tensor is made of rows of others.

    Attributes:
        runs: in order.
        stack: shape of what they make as a stack whose matrices are transposed then; ``None`` where they are not.
    """

    runs: tuple[RowRun, ...]
    stack: Shape | None


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
    matched: dict[str, list[tuple[MatrixRows, MatrixRows]]] = {}
    for held in wanted:
        pairs = [(piece, _counterpart(called, piece, there)) for called, piece in _pieces(held, other_config)]
        if all(own is not None for _, own in pairs):
            matched[held.name] = [(piece, own) for piece, own in pairs if own is not None]
    scattered = {
        name: sum(own.rows for piece, own in pairs if piece.is_scattered or own.is_scattered)
        for name, pairs in matched.items()
    }
    too_many = sum(scattered.values()) > _MOST_SCATTERED
    found = {
        name: Regrouped(_runs(pairs), pairs[0][0].stack)
        for name, pairs in matched.items()
        if not (too_many and scattered[name])
    }
    while True:
        given = Counter[str]()
        for one in found.values():
            for run in one.runs:
                given[run.tensor] += run.count
        torn = {name for name, rows in given.items() if rows != heights[name]}
        kept = {name: one for name, one in found.items() if not any(run.tensor in torn for run in one.runs)}
        if len(kept) == len(found):
            return found
        found = kept


def _runs(pieces: Iterable[tuple[MatrixRows, MatrixRows]]) -> tuple[RowRun, ...]:
    """The rows of a tensor in order, from where its pieces lie in it and in others."""
    placed: list[tuple[int, RowRun]] = []
    for wanted, own in pieces:
        ahead, row, left = _stretches(own.spans), 0, 0
        for place, room in _stretches(wanted.spans):
            while room:
                if not left:
                    row, left = next(ahead)
                count = min(room, left)
                placed.append((place, RowRun(own.tensor, own.stack, row, count)))
                place, room, row, left = place + count, room - count, row + count, left - count
    placed.sort(key=lambda item: item[0])
    joined: list[RowRun] = []
    for _, run in placed:
        last = joined[-1] if joined else None
        if last and (last.tensor, last.stack, last.first + last.count) == (run.tensor, run.stack, run.first):
            joined[-1] = replace(last, count=last.count + run.count)
        else:
            joined.append(run)
    return tuple(joined)


def _stretches(spans: Iterable[Span]) -> Iterator[tuple[int, int]]:
    """First row and number of rows that lie beside each other."""
    for start, stop, step in spans:
        if step == 1:
            yield start, stop - start
        else:
            yield from ((row, 1) for row in range(start, stop, step))


def not_apart(name: str, there: Held) -> str | None:
    """Why a projection is not found among those that another checkpoint has in one tensor, in words; ``None`` if it is not one
    of these.

    Args:
        name: of the projection alone.
        there: a tensor of the other checkpoint.
    """
    stem, leaf = there.name.removesuffix(".weight").removesuffix(".bias"), _leaf(name)
    block = (math.prod(there.shape[:-1]), there.shape[-1]) if len(there.shape) == 2 else there.shape[-2:]
    if len(block) != 2 or (found := fused(_leaf(stem), (block[0], block[1]), there.sizes)) is None:
        return None
    if leaf not in PROJECTIONS[found.what]:
        return None
    if found.cuts is None:
        return f"{found.what} in one tensor, {there.name}, and its config does not tell in which order"
    if any(step > 1 for _, spans in found.cuts.values() for _, _, step in spans):
        return f"{found.what} in one tensor, {there.name}, by turns, in more rows than are taken apart"
    return None


def _leaf(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


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
        yield {_NUMBERED.sub(lambda found: f"experts.{found[1]}{_PLAIN[found[2]]}", role) for role in called}, piece


def _split(held: Held, config: Mapping[str, Any]) -> Iterator[tuple[str, MatrixRows]]:
    """Every piece of a tensor with the name that it would have alone."""
    name, shape = held.name, held.shape
    if len(shape) == 3 and (stack := _STACK.search(name)):
        yield from _of_stack(held, stack[1])
        return
    if len(shape) == 2 and (stack := _STACK_OF_BIASES.search(name)):
        yield from _cut(held, stack[1], (shape[1], 1), None, ".bias")
        return
    if len(shape) == 2 and (below := _ROW_BELOW_ROW.search(name)) and (experts := _experts(held)):
        yield from _of_rows(held, below[1], experts)
        return
    rows, columns = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (math.prod(shape), 1)
    parts = _parts(held, rows, config) or {name: ((0, rows, 1),)}
    for part, spans in parts.items():
        yield part, MatrixRows(name, spans, columns)


def _of_stack(held: Held, leaf: str) -> Iterator[tuple[str, MatrixRows]]:
    experts, rows, columns = held.shape
    turned = has_columns_out((rows, columns), held.sizes, inwards=leaf == "down_proj")
    if turned is None:
        yield held.name, MatrixRows(held.name, ((0, experts * rows, 1),), columns)
        return
    if turned:
        rows, columns = columns, rows
    yield from _cut(held, leaf, (rows, columns), held.shape if turned else None, ".weight")


def _cut(
    held: Held, leaf: str, matrix: tuple[int, int], stack: Shape | None, kind: str
) -> Iterator[tuple[str, MatrixRows]]:
    """Every expert's projections in a stack of matrices of so many rows and columns."""
    rows, columns = matrix
    leaves = ("gate_proj", "up_proj") if leaf == "gate_up_proj" and rows % 2 == 0 else (leaf,)
    stem, _, _ = held.name.rpartition(leaf)
    each, by_turns = rows // len(leaves), len(leaves) > 1 and alternate(held.sizes)
    for expert in range(held.shape[0]):
        begin = expert * rows
        for place, part in enumerate(leaves):
            span = (
                (begin + place, begin + rows, 2) if by_turns else (begin + place * each, begin + (place + 1) * each, 1)
            )
            yield with_expert(f"{stem}{part}{kind}", expert), MatrixRows(held.name, (span,), columns, stack)


def _experts(held: Held) -> int:
    """How many experts lie below each other in a matrix; 0 if that cannot be told."""
    rows, inner = held.shape[0], held.sizes.inner
    return next((number for number in held.sizes.experts if rows == number * inner), 0)


def _of_rows(held: Held, leaf: str, experts: int) -> Iterator[tuple[str, MatrixRows]]:
    rows, columns = held.shape[0] // experts, held.shape[1]
    stack = (experts, rows, columns) if leaf == "w2" else None
    if stack:
        rows, columns = columns, rows
    for expert in range(experts):
        piece = MatrixRows(held.name, ((expert * rows, (expert + 1) * rows, 1),), columns, stack)
        yield f"{held.name.removesuffix(leaf)}{expert}.{leaf}.weight", piece


def _parts(held: Held, rows: int, config: Mapping[str, Any]) -> dict[str, tuple[Span, ...]]:
    """The rows of each projection in a fused one, by the name that it would have alone."""
    for pattern, targets in fusions(config):
        if pattern.search(held.name) and rows % len(targets) == 0:
            each = rows // len(targets)
            return {
                pattern.sub(target, held.name): ((place * each, (place + 1) * each, 1),)
                for place, target in enumerate(targets)
            }
    stem, dot, kind = held.name.rpartition(".")
    parent, _, leaf = stem.rpartition(".")
    if kind not in ("weight", "bias") or len(held.shape) > 2:
        return {}
    columns = held.shape[1] if len(held.shape) == 2 else held.sizes.hidden
    found = fused(leaf, (rows, columns), held.sizes)
    cuts = found.cuts if found is not None else None
    if not cuts or any(axis for axis, _ in cuts.values()):
        return {}
    return {f"{parent}.{part}{dot}{kind}": spans for part, (_, spans) in cuts.items()}
