"""Find the pieces of a model card, web page or plain text that may be a merge config."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser

from merge_assets.importing.embedded import embedded
from merge_assets.importing.fences import Block, fences
from merge_assets.importing.shapes import recipe_shape, schema_keys
from merge_assets.recipe.schema import BODIES

_METHOD = re.compile(r"(?:^|[\s>\"'{,`-])merge\\?_method[\"']?\s*[:：]")
_HTML = re.compile(r"</(?:html|body|pre|code|div|span|table|p)>|<!doctype html", re.IGNORECASE)
_KEY = re.compile(r"(?:[-–—−•*][ \t]*)?[\"']?([A-Za-z_][\w\\-]*)[\"']?[ \t]*[:：](?:\s|$)")
_CONTINUES = re.compile(r"$|#|---|[-–—−•](?:[ \t]|$)|[\[\]{}]|[-+.\d, \t]+\]?$")
_SEPARATOR = re.compile(r"---[ \t]*(?:#.*)?$")
_INTERRUPTION = 3
_BACKTICKS = re.compile("`+")
_LANGUAGE = re.compile(r"\A[ \t]*ya?ml\b")


def find_blocks(text: str, parameters: Collection[str] = ()) -> list[list[Block]]:
    """The pieces of ``text`` that name a merge method, in groups; a group counts if none before it holds a config.

    The groups are: ``<pre>`` and ``<code>`` blocks of HTML; fenced code blocks of Markdown; other code between backticks; the
    whole text, if it starts like a config; runs of lines in prose that look like one; everything that is shown.

    Args:
        text: a Markdown, HTML or YAML file, or any text.
        parameters: names of the methods' parameters, by which lines of a config are told from prose.
    """
    groups: list[list[Block]] = []
    shown = text
    if _HTML.search(text):
        page = _Page()
        page.feed(text)
        page.close()
        groups.append(page.blocks)
        shown = page.visible()
    groups.append(fences(text))
    groups.append(_spans(text))
    if _starts_like_a_config(text):
        groups.append([Block(text, 1, "text")])
    groups.append(list(_runs(shown, schema_keys() | frozenset(parameters))))
    groups.append([Block(shown, 1, "text")])
    meant = ([block for block in group if _METHOD.search(block.text) or _is_like(block)] for group in groups)
    return [group for group in meant if any(_METHOD.search(block.text) for block in group)]


def _is_like(block: Block) -> bool:
    """Whether a code block is a config in all but its method, which is lost or misspelled: it counts as one not read."""
    lines = block.text.split("\n")
    keys = {_named(line) for line in lines if line[:1].strip() and not line.startswith("-")}
    inside = {_named(line) for line in lines}
    return block.kind == "code block" and not keys.isdisjoint(BODIES) and "model" in inside and "experts" not in keys


def outside(text: str, group: Sequence[Block], parameters: Collection[str]) -> list[Block]:
    """Runs of lines that look like a whole config and stand outside of all fences, where a group is of fences."""
    fenced = fences(text)
    if not all(block in fenced for block in group):
        return []
    lines = text.splitlines()
    for block in fenced:
        lines[block.line - 1 : block.line - 1 + block.lines] = [""] * block.lines
    runs = _runs("\n".join(lines), schema_keys() | frozenset(parameters))
    return [run for run in runs if _is_whole(run.text.split("\n"))]


def documents_of(block: Block) -> list[Block]:
    """The configs of a block, where ``---`` stands between them, or where a key of the top level comes again and every piece
    has a method and a body of its own; or the texts that its code writes."""
    if inside := [piece for piece in embedded(block) if _METHOD.search(piece.text)]:
        return inside
    documents = _cut_at_separators(block)
    pieces = [piece for document in documents for piece in _cut_at_keys(document)]
    return pieces if len(pieces) > 1 else [block]


def _cut_at_keys(block: Block) -> list[Block]:
    """A document before every key of the top level that it has already; the document, if a piece were no config."""
    pieces: list[list[str]] = [[]]
    seen: set[str] = set()
    for line in block.text.split("\n"):
        key = _named(line) if line[:1].strip() and not line.startswith("-") else None
        if key in seen and key in recipe_shape().keys:
            kept = len(pieces[-1])
            while kept and (not pieces[-1][kept - 1].strip() or pieces[-1][kept - 1].startswith("#")):
                kept -= 1
            pieces.append(pieces[-1][kept:])
            del pieces[-2][kept:]
            seen = set()
        seen |= {key} if key else set()
        pieces[-1].append(line)
    if not all(_is_whole(lines) for lines in pieces):
        return [block]
    starts = [block.line + sum(map(len, pieces[:place])) for place in range(len(pieces))]
    return [replace(block, text="\n".join(lines), line=start) for lines, start in zip(pieces, starts, strict=True)]


def _is_whole(lines: list[str]) -> bool:
    keys = {_named(line) for line in lines if line[:1].strip()}
    return "merge_method" in keys and not keys.isdisjoint(BODIES)


def _cut_at_separators(block: Block) -> list[Block]:
    """The pieces of a block between its ``---`` that hold more than comments."""
    pieces: list[tuple[int, list[str]]] = [(block.line, [])]
    for number, line in enumerate(block.text.split("\n"), block.line):
        if _SEPARATOR.match(line):
            pieces.append((number + 1, []))
        else:
            pieces[-1][1].append(line)
    return [
        replace(block, text="\n".join(lines), line=start)
        for start, lines in pieces
        if any(line.strip() and not line.lstrip().startswith("#") for line in lines)
    ]


def _spans(text: str) -> list[Block]:
    """What stands between backticks anywhere in a line, as in a model card that was copied as one line."""
    blocks: list[Block] = []
    line = 1
    for number, piece in enumerate(_BACKTICKS.split(text)):
        if number % 2:
            blocks.append(Block(_LANGUAGE.sub("", piece), line, "code"))
        line += piece.count("\n")
    return blocks


def _starts_like_a_config(text: str) -> bool:
    """Whether the first line that says anything is a key of a recipe, or opens a mapping."""
    top = recipe_shape().keys
    for line in text.splitlines():
        said = line.strip().lstrip("\ufeff")
        if not said or said.startswith(("#", "---", "%")):
            continue
        key = _KEY.match(line.strip(" \t>"))
        return said.startswith(("{", "x-", "const_tag")) or (key is not None and key[1].replace("\\", "") in top)
    return False


def _runs(text: str, known: Collection[str]) -> Iterator[Block]:
    """Runs of lines that start with a key of a recipe and go on with known keys, items, comments and empty lines.

    Unknown keys right below belong to the run, and a line or two of something else with lines of a config behind: it would be
    cut off otherwise, and look whole.
    """
    top = recipe_shape().keys
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        key = _named(lines[at])
        if key not in top:
            at += 1
            continue
        start = end = at
        while at < min(len(lines), end + _INTERRUPTION):
            line = lines[at]
            key, follows = _named(line), at == end
            at += 1
            adjacent = follows and key is not None and bool(lines[at - 2].strip())
            if key in known or adjacent or (follows and _CONTINUES.match(line.strip(" \t>"))):
                end = at
        at = end
        while end > start and not lines[end - 1].strip():
            end -= 1
        yield Block("\n".join(lines[start:end]), start + 1, "text")


def _named(line: str) -> str | None:
    key = _KEY.match(line.strip(" \t>"))
    return key[1].replace("\\", "") if key else None


class _Page(HTMLParser):
    """Text of a web page: its code blocks, and everything that is shown."""

    _HIDDEN = frozenset(("script", "style", "head", "button", "svg", "template", "noscript"))
    _BLOCKS = frozenset(("pre", "code", "textarea"))
    _LINES = frozenset(("p", "div", "li", "tr", "ol", "ul", "table", "section", "h1", "h2", "h3", "h4", "blockquote"))
    _VOID = frozenset(("br", "img", "input", "hr", "meta", "link", "wbr", "source", "col", "area", "embed", "track"))
    _NUMBERS = re.compile(
        r"(?:^|\s)(?:\S*line-?no|\S*line-?num(?:ber)?s?|linenos?|line-numbers-rows|blob-num|gutter|hljs-ln-numbers)(?=\s|$)",
        re.I,
    )

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._shown: list[str] = []
        self._block: list[str] | None = None
        self._block_tag = ""
        self._block_depth = 0
        self._block_line = 0
        self._hidden_tag = ""
        self._hidden_depth = 0

    def visible(self) -> str:
        """Everything that the page shows, code blocks included."""
        return "".join(self._shown)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden_depth:
            self._hidden_depth += tag == self._hidden_tag and tag not in self._VOID
            return
        classes = dict(attrs).get("class") or ""
        if (tag in self._HIDDEN or self._NUMBERS.search(classes)) and tag not in self._VOID | self._BLOCKS:
            self._hidden_tag, self._hidden_depth = tag, 1
            return
        if self._block is None and tag in self._BLOCKS:
            self._block, self._block_tag, self._block_depth, self._block_line = [], tag, 1, self.getpos()[0]
            self._shown.append("\n")
            return
        if self._block is not None and tag == self._block_tag:
            self._block_depth += 1
        if tag == "br":
            self._add("\n")
        elif tag in self._LINES:
            self._new_line()

    def handle_endtag(self, tag: str) -> None:
        if self._hidden_depth:
            self._hidden_depth -= tag == self._hidden_tag
            return
        if tag in self._LINES:
            self._new_line()
        if self._block is not None and tag == self._block_tag:
            self._block_depth -= 1
            if not self._block_depth:
                self._end_block()

    def handle_data(self, data: str) -> None:
        if not self._hidden_depth:
            self._add(data)

    def close(self) -> None:
        super().close()
        if self._block is not None:
            self._end_block()

    def _end_block(self) -> None:
        self.blocks.append(Block("".join(self._block or ()), self._block_line, "code block"))
        self._block = None
        self._shown.append("\n")

    def _add(self, data: str) -> None:
        self._shown.append(data)
        if self._block is not None:
            self._block.append(data)

    def _new_line(self) -> None:
        """Start a line, unless one was just started."""
        for parts in (self._shown, self._block):
            if parts and not parts[-1].endswith("\n"):
                parts.append("\n")
