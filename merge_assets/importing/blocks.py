"""Find the pieces of a model card, web page or plain text that may be a merge config."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

from merge_assets.importing.shapes import recipe_shape, schema_keys

_METHOD = re.compile(r"(?:^|[\s>\"'{,`-])merge\\?_method[\"']?\s*[:：]")
_HTML = re.compile(r"</(?:html|body|pre|code|div|span|table|p)>|<!doctype html", re.IGNORECASE)
_KEY = re.compile(r"(?:[-–—−•*][ \t]*)?[\"']?([A-Za-z_][\w\\-]*)[\"']?[ \t]*[:：](?:\s|$)")
_CONTINUES = re.compile(r"$|#|---|[-–—−•](?:[ \t]|$)|[\[\]{}]|[-+.\d, \t]+\]?$")
_INTERRUPTION = 3
_BACKTICKS = re.compile("`+")
_LANGUAGE = re.compile(r"\A[ \t]*ya?ml\b")


@dataclass(frozen=True)
class Block:
    """A piece of text that may hold a config.

    Attributes:
        text: its lines, as they stand in the source.
        line: 1-based line of its first line in the source.
        kind: what it is, in words.
    """

    text: str
    line: int
    kind: str


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
    groups.append(_fences(text))
    groups.append(_spans(text))
    if _starts_like_a_config(text):
        groups.append([Block(text, 1, "text")])
    groups.append(list(_runs(shown, schema_keys() | frozenset(parameters))))
    groups.append([Block(shown, 1, "text")])
    naming = ([block for block in group if _METHOD.search(block.text)] for group in groups)
    return [group for group in naming if group]


def _fences(text: str) -> list[Block]:
    """Fenced code blocks, without the ``>`` and the indentation that their fence has; an open one runs to the end."""
    blocks: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        before, fence = _split_fence(lines[at])
        at += 1
        if len(fence) < 3:
            continue
        start, inside = at, []
        while at < len(lines):
            line = lines[at]
            at += 1
            closing = _split_fence(line)[1]
            if closing[:1] == fence[0] and len(closing) >= len(fence) and not line.strip(f" \t>{fence[0]}"):
                break
            inside.append(_without(line, before))
        blocks.append(Block("\n".join(inside), start + 1, "code block"))
    return blocks


def _spans(text: str) -> list[Block]:
    """What stands between backticks anywhere in a line, as in a model card that was copied as one line."""
    blocks: list[Block] = []
    line = 1
    for number, piece in enumerate(_BACKTICKS.split(text)):
        if number % 2:
            blocks.append(Block(_LANGUAGE.sub("", piece), line, "code"))
        line += piece.count("\n")
    return blocks


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
