"""Leave out of a recipe what only its author's operation needs: schedules, owners and the like."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from merge_assets.errors import RecipeError
from merge_assets.yamlfile import parse_documents

OPERATIONAL = {
    "schedule": "null",
    "freshness": "null",
    "keep": "null",
    "publish": "null",
    "evaluate": "null",
    "device": "auto",
    "allow_nonfinite": "false",
    "owners": "[]",
    "trust_remote_code": "[]",
}
"""Keys of the top level that say what is done with a variant and by whom -> their defaults in YAML."""


def without_operations(text: str, file: Path, keep: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The text of a recipe file without its operational keys, and which they were.

    What an alias under ``<<`` brings in is set to its default instead.

    Args:
        text: one document or several.
        file: named in errors.
        keep: operational keys that stay.

    Raises:
        RecipeError: if other keys need one of them.
    """
    unwanted = OPERATIONAL.keys() - set(keep)
    found = [key for document in parse_documents(text, file) for key in OPERATIONAL if key in document.data]
    dropped = tuple(key for key in dict.fromkeys(found) if key in unwanted)
    if not dropped:
        return text, ()
    for root in reversed(list(_roots(text))):
        text = root.without(text, unwanted)
    try:
        left = {document.index: unwanted & document.data.keys() for document in parse_documents(text, file)}
    except RecipeError as error:
        problem = f"{' and '.join(dropped)} cannot be left out, since other keys refer to what they hold"
        raise RecipeError(f"{problem} ({error.message}); keep them with --keep", file=file) from None
    for index, root in reversed(list(enumerate(_roots(text)))):
        text = root.with_defaults(text, left.get(index, ()))
    return text, dropped


@dataclass
class _Root:
    """The mapping that a document consists of; places are counted in characters.

    Attributes:
        flow: whether it is in braces.
        entries: (key, where the key starts, where its value ends) of each entry.
    """

    flow: bool
    entries: list[tuple[str, int, int]] = field(default_factory=list)

    def without(self, text: str, keys: Collection[str]) -> str:
        kept_end = None
        cuts: list[tuple[int, int]] = []
        starts = [start for _, start, _ in self.entries]
        for (key, start, end), following in zip(self.entries, [*starts[1:], None], strict=True):
            if key not in keys:
                kept_end = end
            elif not self.flow:
                cuts.append(_whole_lines(text, start, end, following))
            elif following is not None:
                cuts.append((start, following))
            else:
                cuts = [cut for cut in cuts if kept_end is None or cut[0] < kept_end]
                cuts.append((start if kept_end is None else kept_end, end))
        for begin, end in reversed(cuts):
            text = text[:begin] + text[end:]
        return text

    def with_defaults(self, text: str, keys: Collection[str]) -> str:
        if not keys:
            return text
        start = self.entries[0][1]
        column = start - (text.rfind("\n", 0, start) + 1)
        behind = ", " if self.flow else "\n" + " " * column
        return text[:start] + "".join(f"{key}: {OPERATIONAL[key]}{behind}" for key in sorted(keys)) + text[start:]


def _roots(text: str) -> Iterator[_Root]:
    """The root of every document of text that was read already; one that is no mapping has no entries."""
    root, depth, key, start = _Root(flow=False), 0, None, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            root, depth, key = _Root(flow=False), 0, None
        elif isinstance(event, yaml.DocumentEndEvent):
            yield root
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent) and depth == 1 and key is None:
            assert event.start_mark is not None
            key, start = getattr(event, "value", ""), event.start_mark.index
            continue
        if isinstance(event, yaml.CollectionStartEvent):
            if depth == 0:
                root.flow = bool(event.flow_style)
            depth += 1
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent | yaml.CollectionEndEvent) and depth == 1:
            assert key is not None and event.end_mark is not None
            root.entries.append((key, start, event.end_mark.index))
            key = None


def _whole_lines(text: str, start: int, end: int, following: int | None) -> tuple[int, int]:
    """The lines of an entry in a block, without the empty lines and comments behind it, which may be the next one's."""
    begin = text.rfind("\n", 0, start) + 1
    limit = len(text) if following is None else text.rfind("\n", 0, following) + 1
    if end > begin and text[end - 1 : end] != "\n":
        end = text.find("\n", end) + 1 or len(text)
    lines = text[begin : min(end, limit)].splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return begin, begin + sum(map(len, lines))
