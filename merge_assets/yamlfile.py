"""YAML of recipes and suites -> plain Python data, one item per document, with hostile input bounded.

Built on the parser's event stream instead of ``yaml.safe_load``, for four things which that does not do:
duplicate keys are errors, an alias counts with everything it expands to (so nine lines of aliases cannot become
a billion nodes), nesting is bounded before the parser or Python recurses deeply, and the line of every key path
is known. Only the plain types exist (null, bool, int, float, text, list, mapping); a tag such as ``!!python/name``
is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from merge_assets.errors import RecipeError, in_one_line
from merge_assets.regular import read_regular

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 40
MAX_DOCUMENTS = 1000
MAX_DIGITS = 100
"""Characters of a number; more would only keep whoever reads it busy."""

LARGEST = 2**63
"""Whole numbers lie below this and not below its negative: what arithmetic and every store of numbers can hold."""

Path_ = tuple[str | int, ...]

# libyaml's parser gives the same events about ten times faster; the wheel has it, a source build may not.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCTOR: Any = yaml.constructor.SafeConstructor()
_TAG = "tag:yaml.org,2002:"
# First characters of plain text that YAML may read as null, bool, number or merge key; empty text is null.
_SPECIAL = frozenset(first for first in _RESOLVER.yaml_implicit_resolvers if first is not None)
# YAML 1.1 reads 1e-5 as text; YAML 1.2 and every reader of a recipe take it for a number.
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


@dataclass(frozen=True)
class Document:
    """One YAML document.

    Attributes:
        index: position in the file, from 0; empty documents count but are left out.
        data: plain Python data; aliased parts may be shared objects and must not be modified.
        text: the document's own lines, comments included, without the ``---`` line.
        line: 1-based line of the first node.
        places: the lines of all documents of the file.
    """

    index: int
    data: Any
    text: str
    line: int
    places: _Places

    def line_of(self, path: Path_) -> int:
        """1-based line of a key path, or of the deepest part of it that exists."""
        return next(self.lines[part] for part in (path[:n] for n in range(len(path), -1, -1)) if part in self.lines)

    @property
    def lines(self) -> dict[Path_, int]:
        """1-based line of each key path; what an alias expands to has no lines of its own."""
        return self.places.by_document[self.index]


class _Places:
    """Where the key paths of a file stand, found by reading it a second time, because only errors ask for it."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def by_document(self) -> list[dict[Path_, int]]:
        parser = _Parser(self._text, Path(), record=True)
        parser.documents()
        return parser.recorded


def spell(path: Path_) -> str:
    """A key path as people write it: ``slices[0].sources[1].layer_range``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        RecipeError: if it cannot be read, is larger than 1 MiB, or is not UTF-8.
    """
    try:
        raw = read_regular(file, MAX_BYTES)
    except FileNotFoundError:
        raise RecipeError("the file does not exist", file=file) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=file) from None
    if len(raw) > MAX_BYTES:
        raise RecipeError("is larger than 1 MiB, which no recipe needs", file=file)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8", file=file) from None


def parse_documents(text: str, file: Path, tags: Mapping[str, Callable[[str], Any]] | None = None) -> list[Document]:
    """Read every non-empty document of ``text``.

    Args:
        text: the whole file.
        file: named in errors.
        tags: what makes a value of the text behind a tag. Files that have such tags are other tools', and are read as those
            read them: of a key that is written twice the last counts, and keys may be numbers.

    Raises:
        RecipeError: wrong YAML, a duplicate key, an unknown tag, a key that is not text, or a limit passed.
    """
    try:
        return _Parser(text, file, tags=tags).documents()
    except RecipeError:
        raise
    except yaml.reader.ReaderError as error:
        raise RecipeError(f"not YAML: {error.reason} at character {error.position}", file=file) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        context = f" {error.context}" if error.context else ""
        problem = str(error.problem).replace("character '\\t'", "a tab character")
        raise RecipeError(f"not YAML: {problem}{context}", file=where) from None
    except Exception as error:
        raise RecipeError(f"cannot be read as YAML ({in_one_line(error)})", file=file) from error


class _Node(NamedTuple):
    """A value with the number of nodes and of levels that it expands to."""

    value: Any
    size: int
    height: int


class _Parser:
    """One pass over the events of one file.

    Reading a thousand recipes is part of loading the definitions, so this avoids work per value: the key path is a
    stack that is only spelled for errors, and only text that could be something else is asked for its type.
    """

    def __init__(
        self,
        text: str,
        file: Path,
        *,
        record: bool = False,
        tags: Mapping[str, Callable[[str], Any]] | None = None,
    ) -> None:
        self._text = text
        self._file = file
        self._record = record
        self._tags = tags
        self.recorded: list[dict[Path_, int]] = []
        self._events = _Loader(text)
        self._next: Any = self._events.get_event
        self._anchors: dict[str, _Node | None] = {}
        self._path: list[str | int] = []
        self._nodes = 0

    def documents(self) -> list[Document]:
        heads: list[int] = []
        parsed: list[tuple[Any, int]] = []
        self._next()
        while self._events.check_event(yaml.DocumentStartEvent):
            opening = self._next()
            if len(heads) == MAX_DOCUMENTS:
                raise self._fail(f"more than {MAX_DOCUMENTS} documents in one file; write several files", opening)
            heads.append(opening.start_mark.line if opening.explicit else 0)
            self._start_document()
            first = self._next()
            parsed.append((self._node(first, 0).value, first.start_mark.line + 1))
            self._next()
        places = _Places(self._text)
        return [
            Document(index, data, text, line, places)
            for index, ((data, line), text) in enumerate(zip(parsed, self._texts(heads), strict=True))
            if data is not None
        ]

    def _start_document(self) -> None:
        self._anchors = {}
        self._path = []
        self.recorded.append({})

    def _texts(self, heads: list[int]) -> list[str]:
        """Cut the file at its ``---`` lines; comments before the first document belong to it."""
        lines = self._text.splitlines(keepends=True)
        bounds = [0, *heads[1:], len(lines)]
        return ["".join(_without_marker(lines[start:end])) for start, end in pairwise(bounds)][: len(heads)]

    def _fail(self, message: str, event: Any, *, levels: int | None = None) -> RecipeError:
        path = tuple(self._path[:levels])
        return RecipeError(message, file=f"{self._file}:{event.start_mark.line + 1}", key=spell(path) or None)

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._fail(f"more than {MAX_NODES} values once the aliases are expanded; no recipe needs that", event)

    def _check_depth(self, depth: int, event: Any) -> None:
        if depth > MAX_DEPTH:
            raise self._fail(f"nested more than {MAX_DEPTH} levels deep", event, levels=3)

    def _node(self, event: Any, depth: int) -> _Node:
        """The node that begins with ``event``."""
        if self._record:
            self.recorded[-1].setdefault(tuple(self._path), event.start_mark.line + 1)
        kind = type(event)
        if kind is yaml.AliasEvent:
            return self._alias(event, depth)
        anchor = event.anchor
        if anchor:
            self._anchors[anchor] = None
        self._check_depth(depth, event)
        self._count(1, event)
        if kind is yaml.ScalarEvent:
            node = _Node(self._scalar(event), 1, 0)
        elif kind is yaml.SequenceStartEvent:
            self._check_tag(event, "seq")
            node = self._sequence(depth)
        else:
            self._check_tag(event, "map")
            node = self._mapping(depth)
        if anchor:
            self._anchors[anchor] = node
        return node

    def _alias(self, event: Any, depth: int) -> _Node:
        anchor = event.anchor
        if anchor not in self._anchors:
            raise self._fail(f"alias *{_short(anchor)} has no anchor of this name above it", event)
        known = self._anchors[anchor]
        if known is None:
            raise self._fail(f"alias *{_short(anchor)} stands inside its own anchor", event)
        self._check_depth(depth + known.height, event)
        self._count(known.size, event)
        return known

    def _check_tag(self, event: Any, expected: str) -> None:
        if event.tag not in (None, "!", _TAG + expected):
            raise self._fail(f"tag {_short(event.tag)} is not allowed; write a plain value", event)

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        plain = event.implicit[0]
        if event.tag is None and (not plain or text[:1] not in _SPECIAL):
            return text
        if plain and _EXPONENT.fullmatch(text):
            return float(text)
        if self._tags and event.tag in self._tags:
            return self._tags[event.tag](text)
        tag = event.tag or _RESOLVER.resolve(yaml.ScalarNode, text, event.implicit)
        kind = str(tag).removeprefix(_TAG)
        if kind in ("str", "!", "merge", "timestamp", "value"):
            return text
        if kind not in ("null", "bool", "int", "float"):
            raise self._fail(f"tag {_short(str(tag))} is not allowed; write a plain value", event)
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            raise self._fail(f"{_short(text)} is a number of {len(text)} characters; {MAX_DIGITS} are enough", event)
        try:
            value = _CONSTRUCTOR.yaml_constructors[_TAG + kind](_CONSTRUCTOR, yaml.ScalarNode(tag, text))
        except (ValueError, KeyError, OverflowError):
            raise self._fail(f"{text[:40]!r} is not of the type {kind}", event) from None
        if kind == "int" and not -LARGEST <= value < LARGEST:
            raise self._fail(f"{_short(text)} is too large; whole numbers lie between -2^63 and 2^63", event)
        return value

    def _sequence(self, depth: int) -> _Node:
        items: list[Any] = []
        size, height = 1, 0
        path = self._path
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            path.append(len(items))
            value, item_size, item_height = self._node(event, depth + 1)
            path.pop()
            items.append(value)
            size += item_size
            height = max(height, item_height + 1)
        return _Node(items, size, height)

    def _mapping(self, depth: int) -> _Node:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        size, height = 1, 0
        path = self._path
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._node(event, depth + 1).value
            if not isinstance(key, str) and (self._tags is None or isinstance(key, (list, dict))):
                shown = "a list or mapping" if isinstance(key, (list, dict)) else repr(key)
                raise self._fail(f"a key must be text, not {shown}; write it in quotes", event)
            path.append(key)
            if key in own and self._tags is None and not (depth == 0 and is_free(key)):
                raise self._fail("the key is written twice; keep one of them", event)
            if self._record:
                self.recorded[-1][tuple(path)] = event.start_mark.line + 1
            value, item_size, item_height = self._node(self._next(), depth + 1)
            if key == "<<" and type(event) is yaml.ScalarEvent and event.implicit[0]:
                merged = {**self._merge_sources(value, event), **merged}
            else:
                own[key] = value
            path.pop()
            size += item_size + 1
            height = max(height, item_height + 1)
        self._count(len(merged), event)
        return _Node({**merged, **own} if merged else own, size + len(merged), height)

    def _merge_sources(self, value: Any, event: Any) -> dict[str, Any]:
        sources = value if isinstance(value, list) else [value]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            if not isinstance(source, dict):
                raise self._fail("takes a mapping or a list of mappings, such as <<: *common", event)
            merged.update(source)
        return merged


def is_free(key: str) -> bool:
    """True for top-level keys that exist only to hold anchors."""
    return key == "const_tag" or key.startswith("x-")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _without_marker(lines: list[str]) -> list[str]:
    if lines and lines[0].startswith("---"):
        rest = lines[0][3:].lstrip(" ")
        return ([rest] if rest.strip() else []) + lines[1:]
    return lines
