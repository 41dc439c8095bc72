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
class Entry:
    """Where a value of a mapping or list stands in a text, in characters.

    Attributes:
        begin: of its key, or of its dash in a list; in brackets, of the item.
        start: of the value.
        end: behind the value.
        flow: whether the mapping or list that holds it is in brackets.
        alone: whether that holds nothing else.
        node: the value.
    """

    begin: int
    start: int
    end: int
    flow: bool
    alone: bool
    node: yaml.Node


def entries(text: str) -> dict[Spot, Entry]:
    """Every value of a text that is sound YAML; of what an alias repeats, only where it is written."""
    found: dict[Spot, Entry] = {}
    for index, root in enumerate(yaml.compose_all(text, Loader=yaml.SafeLoader)):
        found |= {(index, path): entry for path, entry in _inside(text, root, (), set())}
    return found


def with_value(text: str, spot: Spot, value: Any) -> str:
    """The text with another value at a place; as it is, if an alias puts the value there."""
    entry = entries(text).get(spot)
    return text if entry is None else text[: entry.start] + in_one_line(value) + text[_end(text, entry) :]


def without(text: str, spot: Spot, note: str) -> str:
    """The text with an entry as a comment, with a note behind it; in brackets, without the entry.

    What holds nothing else goes with it, since a key that nothing stands under is wrong.
    """
    found = entries(text)
    entry = found.get(spot)
    if entry is None:
        return text
    document, path = spot
    if entry.alone and not entry.flow and len(path) > 1 and (document, path[:-1]) in found:
        return without(text, (document, path[:-1]), note)
    if entry.flow:
        return _cut(text, entry)
    begin = text.rfind("\n", 0, entry.begin) + 1
    stop = text.find("\n", _end(text, entry))
    stop = len(text) if stop < 0 else stop
    before = text[begin : entry.begin]
    if before.strip():  # the first key of an item, whose dash stays
        first, *rest = text[entry.begin : stop].split("\n")
        before, lines = before + "# " + first, rest
    else:
        lines = text[begin:stop].split("\n")
        before, lines = before + "# " + lines[0][len(before) :], lines[1:]
    column = entry.begin - begin
    lines = [f"{' ' * column}# {line[column:]}" if line.strip() else line for line in lines]
    return text[:begin] + "\n".join([f"{before}  # {note}", *lines]) + text[stop:]


def with_entry(text: str, spot: Spot, key: str, value: Any) -> str:
    """The text with one more entry in the mapping at a place; as it is, if an alias puts the mapping there."""
    document, path = spot
    node = _roots(text)[document] if not path else getattr(entries(text).get(spot), "node", None)
    if not isinstance(node, yaml.MappingNode):
        return text
    written = f"{in_one_line(key)}: {in_one_line(value)}"
    if node.flow_style:
        at: int = node.start_mark.index + 1
        return text[:at] + written + (", " if node.value else "") + text[at:]
    at = int(node.value[0][0].start_mark.index)
    column = at - (text.rfind("\n", 0, at) + 1)
    return text[:at] + written + "\n" + " " * column + text[at:]


def in_one_line(value: Any) -> str:
    """A value as YAML of one line."""
    # In a list, since what stands in brackets needs quotes that it would not need else.
    written: str = yaml.safe_dump([value], default_flow_style=True, width=1 << 20, allow_unicode=True)
    return written.strip()[1:-1]


def _roots(text: str) -> list[yaml.Node]:
    return list(yaml.compose_all(text, Loader=yaml.SafeLoader))


def _inside(text: str, node: yaml.Node, path: Path_, seen: set[int]) -> Iterator[tuple[Path_, Entry]]:
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
            yield (*path, key), Entry(begin, start, end, flow, len(pairs) == 1, value)
            yield from _inside(text, value, (*path, key), seen)


def _end(text: str, entry: Entry) -> int:
    """Behind the last character of the value: that of a block ends where the next thing starts."""
    value = text[entry.start : entry.end]
    return entry.start + len(value.rstrip() if isinstance(entry.node, yaml.ScalarNode) else _shorn(value))


def _shorn(value: str) -> str:
    """A value without the empty lines and comments behind it."""
    lines = value.split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return "\n".join(lines).rstrip()


def _cut(text: str, entry: Entry) -> str:
    """The text without an entry of a mapping or list in brackets, and without the comma beside it."""
    behind = entry.end + len(text[entry.end :]) - len(text[entry.end :].lstrip())
    if text[behind : behind + 1] == ",":
        behind += 1
        return text[: entry.begin] + text[behind:].lstrip()
    before = text[: entry.begin].rstrip()
    return before.removesuffix(",") + text[entry.end :]
