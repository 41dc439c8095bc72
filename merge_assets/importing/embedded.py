"""Configs inside of other code: here-documents of a shell, texts between triple quotes, the cells of a notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from merge_assets.importing.fences import Block

_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1")
_TARGET = re.compile(r"(?:>{1,2}[ \t]*|%%writefile[ \t]+)([^\s<>]+)")
_QUOTES = re.compile(r"\"\"\"|'''")
_WRITEFILE = "%%writefile"


def embedded(block: Block) -> Iterator[Block]:
    """The texts that the code of a block writes to files or keeps in variables."""
    lines = block.text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if found := _HEREDOC.search(line):
            end = next((place for place in range(at, len(lines)) if lines[place].strip() == found[2]), None)
            if end is None:
                break
            target = _TARGET.search(line)
            text = "\n".join(lines[at:end])
            yield replace(block, text=text, line=block.line + at, title=target[1] if target else block.title)
            at = end + 1
    yield from _quoted(block)


def _quoted(block: Block) -> Iterator[Block]:
    pieces = _QUOTES.split(block.text)
    line = block.line
    for number, piece in enumerate(pieces):
        if number % 2 and "\n" in piece:
            yield replace(block, text=piece, line=line)
        line += piece.count("\n")


def notebook_text(text: str) -> str | None:
    """The cells of a Jupyter notebook as Markdown, code in fences; ``None`` for anything else."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        notebook: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    cells = notebook.get("cells")
    if not isinstance(cells, list) or "nbformat" not in notebook:
        return None
    return "\n\n".join(_cell(cell) for cell in cells if isinstance(cell, dict))


def _cell(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    if cell.get("cell_type") != "code":
        return text
    head, _, rest = text.partition("\n")
    if head.startswith(_WRITEFILE):
        return f"````yaml title={head.removeprefix(_WRITEFILE).strip()}\n{rest}\n````"
    return f"````python\n{text}\n````"
