"""What the lines around a config call what it makes: headings, arrows, comments, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from merge_assets.importing.cleaning import clean
from merge_assets.importing.fences import Block
from merge_assets.importing.mending import Imported
from merge_assets.yamlfile import parse_documents

_WORDS = re.compile(r"[A-Za-z]+|\d+")
_HEADING = re.compile(r"[ \t]*(?:#{1,6}[ \t]|<h\d|\*\*[^*]+\*\*[:.]?[ \t]*$|<summary)")
_TAG = re.compile(r"<[^>\n]{1,200}>")
_ARROW = re.compile(r"→|⇒|=>|->|➜|➡|⟶")
_COMMAND = re.compile(r"mergekit-\w+\s+(\S+)\s+(\S+)")
_BY_A_VERB = re.compile(
    r"(?:called|named|as|into|to|gives|is|makes|yields|becomes|create|creates|output|result)\W*$", re.I
)
_USES = re.compile(r"(?:with|using|from|of|and|uses|on|plus|\+)\W*$", re.I)
CALLED = 70
"""How surely a config is called by a word that starts its heading, of 100."""
_NUMBERED = re.compile(r"[:–—)]")
"""What stands behind the number of a step."""
_NEAR = 12
"""Lines around a config that may say what it makes."""
_LONGEST = 500
"""Characters of such a line that are read."""


@dataclass(frozen=True)
class CardStep:
    """A config of a page with what stands around it.

    Attributes:
        block: where it stands.
        imported: what it reads as; ``None`` where it cannot be read.
        above: lines between it and the config before it.
        below: lines between it and the config behind it.
    """

    block: Block
    imported: Imported | None
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that the config itself gives."""
        return _own_names(self.imported.text) if self.imported else ()


def with_surroundings(steps: Sequence[CardStep], text: str) -> list[CardStep]:
    """The steps with the lines of the page that stand between them."""
    lines = text.splitlines()
    ends = [0, *(step.block.line - 1 + step.block.lines for step in steps)]
    starts = [*(step.block.line - 1 for step in steps), len(lines)]
    between = [tuple(_plain(line) for line in lines[end:start]) for end, start in zip(ends, starts, strict=True)]
    # What stands between two configs is said of either; how the page does it is seen above its first and below its last.
    is_above = any(map(_tells, between[0][-_NEAR:]))
    is_below = not is_above and any(map(_tells, between[-1][:_NEAR]))
    return [
        replace(
            step,
            above=tuple(line for line in between[place][-_NEAR:] if not (is_below and _tells(line))),
            below=tuple(line for line in _until_the_next(between[place + 1]) if not (is_above and _tells(line))),
        )
        for place, step in enumerate(steps)
    ]


def _until_the_next(lines: Sequence[str]) -> Iterator[str]:
    """The lines behind a config that do not introduce the next one: neither from a heading on, nor with a colon behind."""
    for line in lines[:_NEAR]:
        if _HEADING.match(line):
            return
        if not line.rstrip(" *_").endswith(":"):
            yield line


def _tells(line: str) -> bool:
    """Whether a line has an arrow or a command, behind which stands what comes out."""
    return _ARROW.search(line) is not None or _COMMAND.search(line) is not None


def certainty(step: CardStep, word: str) -> int:
    """How surely what stands around a config calls it by a word, of 100; 0 where nothing does."""
    if names(word, Path(step.block.title).stem):
        return 90
    best = 0
    for line in _comments(step.block.text):
        best = max(best, 85 if names(word, line) else 0)
    for line in step.below:
        command = _COMMAND.search(line)
        if command and names(word, word_of(command[2])):
            best = max(best, 88)
        elif _is_output(word, line):
            best = max(best, 80)
    title = _title(step)
    for line in title:
        command = _COMMAND.search(line)
        if _is_output(word, line):
            best = max(best, 80)
        elif not _ARROW.search(line) and not command and (at := _position(word, line)) is not None:
            starts = not _WORDS.search(_NUMBERED.split(_bare(line[:at]))[-1])
            used = _USES.search(line[:at]) is not None
            best = max(best, CALLED if starts else 30 if used else 60)
    return best


def _is_output(word: str, line: str) -> bool:
    """Whether a line says behind an arrow, or behind a verb, that the word is what comes out."""
    *_, last = _ARROW.split(line)
    if _ARROW.search(line):
        return names(word, last)
    at = _position(word, line)
    return at is not None and _BY_A_VERB.search(_bare(line[:at])) is not None and not _USES.search(_bare(line[:at]))


def _title(step: CardStep) -> Iterator[str]:
    """The lines above a config up to the nearest heading, the nearest first."""
    for line in reversed(step.above):
        yield line
        if _HEADING.match(line):
            return


def title_of(step: CardStep) -> str:
    """What is written above a config, from its heading on; the nearest line first."""
    return "\n".join(_title(step))


def _comments(text: str) -> Iterator[str]:
    """The comments above the first key of a config."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return
        yield line.lstrip("# ")


def word_of(path: str) -> str:
    """What a path is called by: its last part."""
    parts = [part for part in re.split(r"[/\\]+", path) if part not in ("", ".", "..")]
    return re.sub(r"\.ya?ml$", "", parts[-1]) if parts else ""


def _pattern(word: str) -> re.Pattern[str] | None:
    pieces = _WORDS.findall(word)
    if not pieces:
        return None
    inside = r"[\W_]{0,3}".join(map(re.escape, pieces))
    return re.compile(
        rf"(?<![A-Za-z0-9_])(?<![A-Za-z0-9][-.]){inside}(?![A-Za-z0-9_]|[-.](?!ya?ml\b)[A-Za-z0-9])", re.I
    )


def _position(word: str, line: str) -> int | None:
    pattern = _pattern(word)
    found = pattern.search(line) if pattern else None
    return found.start() if found else None


def names(word: str, line: str) -> bool:
    """Whether a line has a word, whatever stands between its parts: ``first-merge`` is ``First merge``."""
    return _position(word, line) is not None


def is_distinct(word: str) -> bool:
    """Whether a word is no everyday one: only such are taken for a step where a name on the Hub is written."""
    return len(word) >= 6 and len(_WORDS.findall(word)) >= 2


def _bare(line: str) -> str:
    """A line without the marks of Markdown at its end and start."""
    return re.sub(r"[`*_#>\"'/.\\\s-]+$", " ", line.lstrip(" \t#*>`_-."))


def _plain(line: str) -> str:
    """A line of a page as it is read: without tags and what copying does to its characters."""
    shown = line[:_LONGEST]
    shown = "# " + shown if re.search(r"<h\d|<summary", shown) else shown
    return clean(_TAG.sub(" ", shown))[0]


def _own_names(text: str) -> tuple[str, ...]:
    documents = parse_documents(text, Path())
    return tuple(str(each.data["name"]) for each in documents if isinstance(each.data, dict) and "name" in each.data)
