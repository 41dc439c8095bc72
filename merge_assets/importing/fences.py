"""The fenced code blocks of Markdown, also where a fence is written or closed badly."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CODE = re.compile(r"[ \t]*(?:ya?ml|bash|sh|shell|console|python|py|json|text|markdown|md)\b", re.I)
_TITLE = re.compile(r"(?:title|file|filename|name)\s*[=:]\s*[\"']?([^\"'\s}]+)|([\w./-]+\.ya?ml)\b", re.I)
_GLUED_END = re.compile(r"(?<=[^`\s])[ \t]*```+[ \t]*$")


@dataclass(frozen=True)
class Block:
    """A piece of text that may hold a config.

    Attributes:
        text: its lines, as they stand in the source.
        line: 1-based line of its first line in the source.
        kind: what it is, in words.
        title: the file that it is said to be, if any.
    """

    text: str
    line: int
    kind: str
    title: str = ""

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1


def fences(text: str) -> list[Block]:
    """Fenced code blocks, without the ``>`` and the indentation that their fence has.

    An open one runs to the next fence that names a language, or to the end; a fence at the end of a line closes, too.
    """
    blocks: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        before, fence = _split_fence(lines[at])
        head = lines[at]
        at += 1
        if len(fence) < 3:
            continue
        start, inside = at, []
        while at < len(lines):
            line = lines[at]
            closing = _split_fence(line)[1]
            if _opens_another(line, closing, fence):
                break
            at += 1
            if _closes(line, closing, fence):
                break
            inside.append(_without(line, before))
            if fence[0] == "`" and _GLUED_END.search(line) and line.count("```") == 1:
                inside[-1] = _GLUED_END.sub("", inside[-1])
                break
        named = _TITLE.search(head)
        title = next(filter(None, named.groups()), "") if named else ""
        blocks.append(Block("\n".join(inside), start + 1, "code block", title))
    return blocks


def _closes(line: str, closing: str, fence: str) -> bool:
    """Whether a line closes a fence: as Markdown has it, or with one or two backticks alone, as people mistype it."""
    alone = not line.strip(f" \t>{fence[0]}")
    return alone and closing[:1] == fence[0] and (len(closing) >= len(fence) or len(closing) < 3)


def _opens_another(line: str, closing: str, fence: str) -> bool:
    """Whether a line opens a fence with a language, which none inside of a config does."""
    return closing == fence and _CODE.match(line.lstrip(" \t>").lstrip(fence[0])) is not None


def _split_fence(line: str) -> tuple[str, str]:
    """What stands before a fence, and the fence, which is empty in other lines."""
    rest = line.lstrip(" \t>")
    mark = rest[:1]
    if mark not in ("`", "~"):
        return "", ""
    after = rest.lstrip(mark)
    return line[: len(line) - len(rest)], "" if mark in after else rest[: len(rest) - len(after)]


def _without(line: str, before: str) -> str:
    """A line inside a fence without the quotation marks and spaces that stand before the fence."""
    for mark in before:
        if line.startswith(mark):
            line = line[1:]
        elif mark == ">" and line.lstrip().startswith(">"):
            line = line.lstrip()[1:]
    return line
