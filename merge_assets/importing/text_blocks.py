"""Blocks of text (``|`` and ``>``) by the indentation that their lines were found with, where that was not lost."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.importing.lines import Kind, Line


class TextBlocks:
    """What the indentation of lines says of the texts among them.

    A text is *sound* where its first line stands right of its key, as YAML wants it. Then the lines right of the key are of it,
    and the text starts at the column of the one furthest left. Of another, the schema alone says where it ends, and nothing
    says how its lines were indented.

    Args:
        lines: of a document, without blank ones.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._openers: list[int | None] = []
        self._columns: dict[int, int] = {}
        opener: int | None = None
        for index, line in enumerate(lines):
            self._openers.append(opener)
            if line.opens_text and (opener is None or not self.holds(index)):
                opener = index

    def opener(self, index: int) -> int | None:
        """The line above one that opens the text which it may be of."""
        return self._openers[index]

    def holds(self, index: int) -> bool | None:
        """Whether a line is of the text above it; ``None`` where its indentation does not tell."""
        opener = self._openers[index]
        if opener is None or not self._is_sound(opener):
            return None
        return self._lines[index].indent > self._lines[opener].indent

    def deeper(self, index: int) -> int:
        """Columns by which a line of a text stands right of where the text starts; 0 of its first line, which YAML goes by."""
        opener = self._openers[index]
        if opener is None or index == opener + 1:
            return 0
        return max(0, self._lines[index].indent - self._column(opener))

    def is_lost(self, index: int) -> bool:
        """Whether it is not known how far right of the text's start a line of the text stood."""
        opener = self._openers[index]
        if opener is None:
            return False
        away = self._lines[index].indent - self._column(opener)
        return not self._is_sound(opener) or away < 0 or (away > 0 and index == opener + 1)

    def _is_sound(self, opener: int) -> bool:
        return opener + 1 < len(self._lines) and self._lines[opener + 1].indent > self._lines[opener].indent

    def _column(self, opener: int) -> int:
        """Where a text starts."""
        if opener not in self._columns:
            first, key = self._lines[opener + 1].indent, self._lines[opener].indent
            found = first
            for line in self._lines[opener + 1 :] if first > key else ():
                if line.indent > key:
                    found = min(found, line.indent)
                elif line.kind is Kind.key:
                    break
            self._columns[opener] = found
        return self._columns[opener]
