"""The lines of a YAML config without its indentation: which are keys, which are items, which go on."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

_QUOTED_KEY = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'"
_KEY = re.compile(rf"({_QUOTED_KEY}|[^\s\"'#&*!|>%@`\[\]{{}},?:-][^\s:]*(?::[^\s:]+)*)[ ]*:(?=\s|$)")
_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}&!]*\s*)+(?=#|$)")
_BLOCK_TEXT = re.compile(r"(?:[&!]\S+\s+)*[|>][-+0-9]{0,2}\s*(?:#.*)?")
_OPENS_TEXT = re.compile(rf":[ \t]+{_BLOCK_TEXT.pattern}$")
_LEADING_PROPERTIES = re.compile(r"(?:[&!]\S+\s+)*")
_GLUED = re.compile(r"(-\s+)?([A-Za-z_]\w*):(?=\s|$)")
_LONGEST = 100
"""Lines that one quoted text or flow collection may go on for."""


class Kind(Enum):
    """What a line is."""

    key = "key"
    item = "item"
    text = "text"
    comment = "comment"
    blank = "blank"


@dataclass(frozen=True)
class Line:
    """One line, with those that its quotes or brackets go on over.

    Attributes:
        number: 1-based, of the first.
        parts: without leading and trailing spaces.
        kind: a ``key`` with what stands after it, an ``item`` that is a plain value, ``text`` that is neither.
        dash: whether an item starts here; with ``key``, a mapping whose first key it is.
        key: the key, without quotes.
        value: what stands after key or dash.
        indent: columns before it where it was found, which may be lost.
    """

    number: int
    parts: tuple[str, ...]
    kind: Kind
    dash: bool = False
    key: str = ""
    value: str = ""
    indent: int = 0

    @property
    def opens(self) -> bool:
        """Whether the value is on the lines below: nothing but anchors and comments stands here."""
        return not self.value or self.value.startswith("#") or _PROPERTIES.match(self.value) is not None

    @property
    def first_key(self) -> str | None:
        """The first key of a value that is a mapping in braces."""
        found = _KEY.match(self.value[1:].lstrip()) if self.value.startswith("{") else None
        return found[1].strip("\"'") if found else None

    @property
    def opens_text(self) -> bool:
        """Whether a block of text (``|`` or ``>``) follows."""
        return _BLOCK_TEXT.fullmatch(self.value) is not None

    @property
    def is_plain(self) -> bool:
        """Whether the value is text without quotes, which may go on in the next line."""
        start = self.value[_end(_LEADING_PROPERTIES, self.value) :]
        return not self.opens and not self.opens_text and not start.startswith(("[", "{", "*", "'", '"'))


def read_lines(text: str, first: int, glued: Collection[str]) -> list[Line]:
    """The lines of one document.

    Args:
        text: the document.
        first: number of its first line.
        glued: keys before which a line is cut, where another key or item stands before them on the same line.
    """
    raw: list[tuple[int, str]] = []
    physical = text.split("\n")
    in_text = _in_texts(physical, first)
    for number, whole in enumerate(physical, first):
        parts = [whole.strip()] if number in in_text else _unglue(whole.strip(), glued)
        raw += [(number, part) for part in parts]
    lines: list[Line] = []
    at = 0
    while at < len(raw):
        number, head = raw[at]
        if head == "-" and at + 1 < len(raw) and _KEY.match(raw[at + 1][1]):
            raw[at], raw[at + 1] = (number, ""), (raw[at + 1][0], f"- {raw[at + 1][1]}")
            head = ""
        line = _read(number, head)
        at += 1
        if line.kind not in (Kind.blank, Kind.comment) and number not in in_text:
            more = _open_lines(line.value, [part for _, part in raw[at : at + _LONGEST]])
            line = Line(number, (head, *more), line.kind, line.dash, line.key, line.value)
            at += len(more)
        whole = physical[line.number - first]
        lines.append(replace(line, indent=len(whole) - len(whole.lstrip())))
    return lines


def _in_texts(physical: Sequence[str], first: int) -> Collection[int]:
    """The numbers of lines that stand right of a key whose value is a block of text, right below it."""
    found: set[int] = set()
    key: int | None = None
    for number, line in enumerate(physical, first):
        indent = len(line) - len(line.lstrip())
        if key is not None and line.strip():
            if indent > key:
                found.add(number)
                continue
            key = None
        if key is None and _OPENS_TEXT.search(line):
            key = indent
    return found


_GLUED_KEYS = 3
"""Keys on one line from which on a comment ends before the next key: the lines were joined."""


def _read(number: int, text: str) -> Line:
    if not text:
        return Line(number, (text,), Kind.blank)
    if text.startswith("#"):
        return Line(number, (text,), Kind.comment)
    dash = text.startswith("- ") or text == "-"
    rest = text[1:].lstrip() if dash else text
    key = _KEY.match(rest)
    if key is not None:
        return Line(number, (text,), Kind.key, dash, key[1].strip("\"'"), rest[key.end() :].strip())
    return Line(number, (text,), Kind.item if dash else Kind.text, dash, value=rest)


def _open_lines(value: str, below: list[str]) -> tuple[str, ...]:
    """The lines that a quoted text or a flow collection which starts ``value`` goes on over; none if it never ends."""
    start = value[_end(_LEADING_PROPERTIES, value) :]
    if start[:1] not in ("'", '"', "[", "{"):
        return ()
    scan = _Scan()
    if scan.end(start) is not None:
        return ()
    for count, line in enumerate(below, 1):
        if scan.end("\n" + line) is not None:
            return tuple(below[:count])
    return ()


class _Scan:
    """Finds where the quoted text or flow collection ends that begins with the first text given."""

    def __init__(self) -> None:
        self._quote = ""
        self._depth = 0
        self._before = ""

    def end(self, text: str, start: int = 0) -> int | None:
        """The place behind its end, ``None`` if it goes on after ``text``."""
        at = start
        while at < len(text):
            mark = text[at]
            if self._quote:
                if (self._quote == '"' and mark == "\\") or (mark == self._quote == "'" == text[at + 1 : at + 2]):
                    at += 1
                elif mark == self._quote:
                    self._quote = ""
                    if not self._depth:
                        return at + 1
            elif mark in "\"'" and self._before in ("", "[", "{", ",", ":"):
                self._quote = mark
            elif mark in "[{":
                self._depth += 1
            elif mark in "]}":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
            if not mark.isspace():
                self._before = mark
            at += 1
        return None


def _unglue(line: str, keys: Collection[str]) -> list[str]:
    """Cut a line before every ``key:`` and ``- key:`` that stands behind something else, outside quotes and brackets."""
    if ":" not in line or line.startswith("#"):
        return [line]
    cuts = [0]
    at, before = 0, ""
    while at < len(line):
        if line[at] == "#" and line[at - 1].isspace() and len(cuts) < _GLUED_KEYS:
            break  # a comment
        found = _GLUED.match(line, at) if at == 0 or line[at - 1].isspace() else None
        if found is not None and found[2] in keys:
            if before not in ("", "-"):
                cuts.append(at)
            at, before = found.end(), ":"
        elif line[at] in "\"'[{" and before in ("", ":", "-"):
            at, before = _Scan().end(line, at) or len(line), "]"
        else:
            before = before if line[at].isspace() else line[at]
            at += 1
    return [line[start:end].strip() for start, end in zip(cuts, [*cuts[1:], len(line)], strict=True)]


def _end(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0
