"""The tables of a model card or page, of Markdown and of HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import islice

from merge_assets.importing.cleaning import clean

_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,200}>")
_RULE = re.compile(r"[|:\s-]+")
_LONGEST = 2000
_MOST_TABLES = 40
"""Tables of a page that are read."""
_MOST = 60
"""Rows of a table that are read."""
_WIDEST = 40
"""Cells of a row of HTML that are read, those that it spans counted."""
_HTML_TABLE = re.compile(r"<table\b", re.I)


@dataclass(frozen=True)
class CardTable:
    """A table of a page.

    Attributes:
        line: 1-based line of its head.
        head: the cells of the first row.
        body: the cells of the other rows.
    """

    line: int
    head: list[str]
    body: list[list[str]]


def card_tables(text: str) -> list[CardTable]:
    """The tables of a text in the order of its lines: text alone in the cells, without links, stars and tags."""
    found = list(islice(_of_markdown(text), _MOST_TABLES))
    if _HTML_TABLE.search(text):
        page = _Page()
        page.feed(text)
        page.close()
        found += page.tables
    return sorted(found, key=lambda table: table.line)[:_MOST_TABLES]


def _of_markdown(text: str) -> Iterator[CardTable]:
    lines = [line[:_LONGEST] for line in text.splitlines()]
    for number in range(1, len(lines)):
        if "|" in lines[number - 1] and "-" in lines[number] and _RULE.fullmatch(lines[number].strip()):
            body = []
            for line in lines[number + 1 : number + 1 + _MOST]:
                if "|" not in line:
                    break
                body.append(_cells(line))
            yield CardTable(number, _cells(lines[number - 1]), body)


def _cells(line: str) -> list[str]:
    return [_bare(_TAG.sub("", _LINK.sub(r"\1", cell))) for cell in line.strip().strip("|").split("|")]


def _bare(cell: str) -> str:
    return clean(cell)[0].strip(" *_`\t\n")


class _Page(HTMLParser):
    """The tables of HTML; one within another belongs to the outer one's cell, and is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[CardTable] = []
        self._depth = 0
        self._line = 0
        self._rows: list[list[str]] = []
        self._cell: list[str] | None = None
        self._spans = (1, 1)
        self._below: dict[int, tuple[int, str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._depth += 1
            if self._depth == 1:
                self._line, self._rows, self._below = self.getpos()[0], [], {}
        if self._depth != 1:
            return
        if tag in ("tr", "td", "th"):
            self._end_cell()
        if tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            given = dict(attrs)
            self._spans = _count(given.get("colspan")), _count(given.get("rowspan"))
            self._cell = []
        elif tag == "br" and self._cell is not None:
            self._cell.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if self._depth == 1 and tag in ("td", "th", "tr", "table"):
            self._end_cell()
        if self._depth == 1 and tag in ("tr", "table") and self._rows:
            self._spanned(len(self._rows[-1]))
        if tag == "table" and self._depth:
            self._depth -= 1
            if not self._depth:
                self._end_table()

    def handle_data(self, data: str) -> None:
        if self._depth == 1 and self._cell is not None:
            self._cell.append(data[:_LONGEST])

    def _end_cell(self) -> None:
        if self._cell is None:
            return
        text, self._cell = _bare(" ".join("".join(self._cell).split())[:_LONGEST]), None
        if not self._rows:
            self._rows.append([])
        wide, tall = self._spans
        for _ in range(wide):
            at = self._spanned(len(self._rows[-1]))
            if at >= _WIDEST:
                return
            self._rows[-1].append(text)
            if tall > 1:
                self._below[at] = tall - 1, text

    def _spanned(self, at: int) -> int:
        """The next free place of the last row, behind the cells that reach into it from above."""
        while (above := self._below.pop(at, None)) is not None:
            left, text = above
            self._rows[-1].append(text)
            if left > 1:
                self._below[at] = left - 1, text
            at += 1
        return at

    def _end_table(self) -> None:
        rows = [row for row in self._rows if row][: _MOST + 1]
        while len(rows) > 2 and len(set(rows[0])) == 1:  # a title over all columns
            del rows[0]
        if len(rows) > 1 and len(self.tables) < _MOST_TABLES:
            self.tables.append(CardTable(self._line, rows[0], rows[1:]))


def _count(text: str | None) -> int:
    return min(max(int(text), 1), _WIDEST) if text and text.isdecimal() and len(text) < 4 else 1
