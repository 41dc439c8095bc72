"""Change single values and entries of YAML text and leave every other character as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from merge_assets.yamlfile import Path_

Spot = tuple[int, Path_]
"""Index of a document, and a key path in it."""


@dataclass(frozen=True)
class _Entry:
    """Where a value of a mapping or list stands in a text, in characters.

    Attributes:
        begin: of its key, or of its dash in a list; in brackets, of the item.
        start: of the value.
        end: behind the value.
        flow: whether the mapping or list that holds it is in brackets.
        siblings: entries of what holds it, itself included.
        node: the value.
    """

    begin: int
    start: int
    end: int
    flow: bool
    siblings: int
    node: yaml.Node


class Edits:
    """Changes of a text that is sound YAML, collected first and made at once.

    What an alias repeats is left as it is: it is written elsewhere.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._roots = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        self._found: dict[Spot, _Entry] = {}
        for index, root in enumerate(self._roots):
            self._found |= {(index, path): entry for path, entry in _inside(text, root, (), set())}
        self._gone: dict[Spot, str] = {}
        self._changes: list[tuple[int, int, str]] = []

    def replace(self, spot: Spot, value: Any) -> bool:
        """Write another value at a place; False if it cannot be written there."""
        entry = self._found.get(spot)
        if entry is not None:
            self._changes.append((entry.start, _end(self._text, entry), in_one_line(value)))
        return entry is not None

    def comment(self, spot: Spot, note: str) -> bool:
        """Make an entry a comment, with a note behind it; in brackets, take it out. What holds nothing else goes with it."""
        if spot in self._found:
            self._gone[spot] = note
        return spot in self._found

    def add(self, spot: Spot, key: str, value: Any) -> bool:
        """Write one more entry into the mapping at a place; False if it cannot be written there."""
        document, path = spot
        node = self._roots[document] if not path else getattr(self._found.get(spot), "node", None)
        if not isinstance(node, yaml.MappingNode):
            return False
        written = f"{in_one_line(key)}: {in_one_line(value)}"
        if node.flow_style:
            at = int(node.start_mark.index) + 1
            written += ", " if node.value else ""
        else:
            # Behind what an entry is called by, where something follows.
            place = len(node.value) > 1 and node.value[0][0].value in ("name", "model")
            at = int(node.value[place][0].start_mark.index)
            written += "\n" + " " * (at - self._text.rfind("\n", 0, at) - 1)
        self._changes.append((at, at, written))
        return True

    def in_braces(self, document: int) -> bool:
        """Whether a document is a mapping in braces."""
        return bool(getattr(self._roots[document], "flow_style", False))

    def done(self) -> str:
        """The text with all changes."""
        gone = [self._without(self._found[spot], note) for spot, note in self._without_parents().items()]
        changes = {
            change
            for change in (*self._changes, *gone)
            if not any(
                begin <= change[0] and begin < change[1] <= end and change[:2] != (begin, end) for begin, end, _ in gone
            )
        }
        text = self._text
        for begin, end, new in sorted(changes, reverse=True):
            text = text[:begin] + new + text[end:]
        return text

    def _without_parents(self) -> dict[Spot, str]:
        """What goes, with everything of which nothing would be left."""
        gone = dict(self._gone)
        while True:
            for document, path in gone:
                parent = (document, path[:-1])
                inside = [spot for spot in gone if (spot[0], spot[1][:-1]) == parent]
                if parent in self._found and len(inside) == self._found[(document, path)].siblings:
                    note = gone[inside[0]]
                    gone = {spot: why for spot, why in gone.items() if spot not in inside} | {parent: note}
                    break
            else:
                return gone

    def _without(self, entry: _Entry, note: str) -> tuple[int, int, str]:
        text, end = self._text, _end(self._text, entry)
        if entry.flow:
            return _cut(text, entry)
        begin = text.rfind("\n", 0, entry.begin) + 1
        stop = text.find("\n", end)
        stop = len(text) if stop < 0 else stop
        column = entry.begin - begin
        first, *rest = text[entry.begin : stop].split("\n")
        rest = [f"{' ' * column}# {line[column:]}" if line.strip() else line for line in rest]
        # Of an item whose first key goes, the dash stays before the comment.
        return entry.begin, stop, "\n".join([f"# {first}  # {note}", *rest])


def in_one_line(value: Any) -> str:
    """A value as YAML of one line."""
    # In a list, since what stands in brackets needs quotes that it would not need else.
    written: str = yaml.safe_dump([value], default_flow_style=True, width=1 << 20, allow_unicode=True)
    return written.strip()[1:-1]


def _inside(text: str, node: yaml.Node, path: Path_, seen: set[int]) -> Iterator[tuple[Path_, _Entry]]:
    if id(node) in seen:
        return
    seen.add(id(node))
    flow = bool(getattr(node, "flow_style", False))
    if isinstance(node, yaml.MappingNode):
        pairs = [(key.value, key.start_mark.index, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        starts = [value.start_mark.index for value in node.value]
        dashes = starts if flow else [text.rfind("-", 0, start) for start in starts]
        pairs = [(place, dash, value) for place, (dash, value) in enumerate(zip(dashes, node.value, strict=True))]
    else:
        return
    for key, begin, value in pairs:
        if id(value) not in seen:
            start, end = value.start_mark.index, value.end_mark.index
            yield (*path, key), _Entry(begin, start, end, flow, len(pairs), value)
            yield from _inside(text, value, (*path, key), seen)


def _end(text: str, entry: _Entry) -> int:
    """Behind the last character of the value: that of a block ends where the next thing starts."""
    value = text[entry.start : entry.end]
    return entry.start + len(value.rstrip() if isinstance(entry.node, yaml.ScalarNode) else _shorn(value))


def _shorn(value: str) -> str:
    """A value without the empty lines and comments behind it."""
    lines = value.split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return "\n".join(lines).rstrip()


def _cut(text: str, entry: _Entry) -> tuple[int, int, str]:
    """An entry of a mapping or list in brackets, with the comma beside it."""
    behind = entry.end + len(text[entry.end :]) - len(text[entry.end :].lstrip())
    if text[behind : behind + 1] == ",":
        behind += 1
        return entry.begin, behind + len(text[behind:]) - len(text[behind:].lstrip()), ""
    return len(text[: entry.begin].rstrip().removesuffix(",")), entry.end, ""
