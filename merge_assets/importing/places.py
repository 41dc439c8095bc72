"""Where one line may stand among what the lines above it have opened, as the schema alone tells.

Which of several places is meant, and whether the lines below fit behind it, is asked in
:mod:`merge_assets.importing.indentation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from merge_assets.importing.lines import Kind, Line
from merge_assets.importing.shapes import PLAIN, Shape, anything
from merge_assets.yamlfile import is_free


class OpenValue(NamedTuple):
    """A value that lines may still be added to.

    ``kind`` is ``key`` while nothing but its key is known, then ``map``, ``list`` or ``text``; ``column`` is where its
    lines start, for ``key`` that of the key. ``used`` are the keys it has, ``inner`` those of its items or values so far, and
    ``earlier`` those of its neighbours before it.
    """

    shape: Shape
    kind: str
    column: int
    used: frozenset[str] = frozenset()
    earlier: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()
    label: str = ""


State = tuple[OpenValue, ...]


class LinePlace(NamedTuple):
    """One way to take a line.

    ``column`` is what the line gets, ``state`` what is open afterwards, ``owner`` what it becomes part of, ``below`` the shape
    of what stands behind its key, and ``rare`` whether a free key takes a name that a mapping around it has.
    """

    column: int
    state: State
    owner: OpenValue
    below: Shape = PLAIN
    rare: bool = False


def key_places(line: Line, state: State) -> Iterator[LinePlace]:
    """Where ``key: …`` or ``- key: …`` fits, innermost first."""
    for depth in range(len(state) - 1, -1, -1):
        node = state[depth]
        if line.dash:
            item = node.shape.item
            if node.kind not in ("key", "list") or item is None:
                continue
            below = _under(item, line.key)
            if below is None:
                continue
            listed = _as_list(node, state[depth + 1 :])
            label = f"an item of {node.label}"
            owner = OpenValue(item, "map", listed.column + 2, frozenset((line.key,)), listed.inner, label=label)
            yield LinePlace(listed.column, _after(line, below, (*state[:depth], listed, owner)), owner, below)
        elif node.kind in ("key", "map"):
            free = depth == 0 and is_free(line.key)
            below = anything() if free else _under(node.shape, line.key)
            if below is None or (line.key in node.used and not free):
                continue
            rare = line.key not in node.shape.keys and _is_known(line.key, state[:depth])
            if rare and line.opens and not below.is_open:
                continue
            column = node.column + 2 if node.kind == "key" else node.column
            inner = node.inner | _used(state[depth + 1 :])
            owner = node._replace(kind="map", column=column, used=node.used | {line.key}, inner=inner)
            yield LinePlace(column, _after(line, below, (*state[:depth], owner)), owner, below, rare)


def item_places(line: Line, state: State) -> Iterator[LinePlace]:
    """Where ``- value`` fits, innermost first."""
    for depth in range(len(state) - 1, -1, -1):
        node, item = state[depth], state[depth].shape.item
        if node.kind not in ("key", "list") or item is None:
            continue
        first_key = line.first_key
        fits = item.scalar if first_key is None else _under(item, first_key) is not None
        if fits or line.value.startswith("*"):
            listed = _as_list(node, state[depth + 1 :])
            yield LinePlace(listed.column, (*state[:depth], listed), listed)


def text_places(state: State, before: Line | None) -> Iterator[LinePlace]:
    """Where a line that is neither key nor item fits: as the value of the key above, or behind the text above."""
    node = state[-1]
    if node.kind == "key":
        yield LinePlace(node.column + 2, state[:-1], node)
    elif node.kind in ("map", "list") and before is not None and (before.is_plain or before.kind is Kind.text):
        yield LinePlace(node.column + 2, state, node)


def _under(shape: Shape, key: str) -> Shape | None:
    """The shape of a key's value, ``None`` if ``shape`` is no mapping that takes the key."""
    if key in shape.keys:
        return shape.keys[key]
    if shape.values is not None:
        return shape.values
    return anything() if key == "<<" and shape.keys else None


def _is_known(key: str, around: State) -> bool:
    """Whether an open mapping has the key."""
    return any(node.kind == "map" and key in node.shape.keys for node in around)


def _as_list(node: OpenValue, inside: State) -> OpenValue:
    """``node`` as a list that a new item is added to; ``inside`` is its last item."""
    column = node.column + 2 if node.kind == "key" else node.column
    return node._replace(kind="list", column=column, inner=node.inner | _used(inside))


def _used(inside: State) -> frozenset[str]:
    """The keys of the outermost of what is open inside of something."""
    return inside[0].used if inside else frozenset()


def _after(line: Line, below: Shape, state: State) -> State:
    """What is open after a line with a key."""
    owner = state[-1]
    if line.opens_text:
        return (*state, OpenValue(PLAIN, "text", owner.column + 2, label=line.key))
    if not line.opens:
        return state
    earlier = frozenset() if owner.shape.values is None else owner.inner
    return (*state, OpenValue(below, "key", owner.column, earlier=earlier, label=line.key))
