"""Undo what copying does to the characters and lines of a YAML config.

Lines are blanked, never removed, so that line numbers in errors are those of the source.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from itertools import pairwise

_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,6}|#[xX][0-9a-fA-F]{1,6});")
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_ESCAPED = re.compile(r"\\([_\[\]*#-])")
_DOUBLE = re.compile(r"(?<!\w)[“”„‟]([^\n“”„‟\"]*)[“”„‟](?!\w)")
_SINGLE = re.compile(r"(?<!\w)[‘’‚‛]([^\n']{0,300}?)[‘’‚‛](?!\w)")
_BULLET = re.compile(r"^([ \t]*)[–—−•·*▪][ \t]+(?=\S)", re.MULTILINE)
_MINUS = re.compile(r"−(?=\d|\.\d)")
_COLON = re.compile(r"(?<=\w)：[ \t]*")
_NO_SPACE = re.compile(r"^([ \t]*)-(?=[A-Za-z_]\w*:(?:\s|$))", re.MULTILINE)
_LEADING = re.compile(r"^[ \t]*\t[ \t]*", re.MULTILINE)
_QUOTED = re.compile(r"^[ \t]*(?:>[ \t]?)+")
_NUMBERED = re.compile(r"[ \t]*(\d{1,5})(?:[ \t]*[|│:.)](?=[ \t]|$)|(?=[ \t]|$))[ \t]?(.*)")
_ONLY_NUMBER = re.compile(r"[ \t]*(\d{1,5})[ \t]*")
_BUTTON = re.compile(
    r"[ \t]*(?:copy|copied!?|copy (?:code|to clipboard)|edit|raw|view raw|wrap|expand|collapse|yaml|yml)[ \t]*", re.I
)
_BUTTON_BEFORE = re.compile(r"^[ \t]*(?:yaml|yml)?(?:Copy(?: code)?|Copied!|CopyEdit)+[ \t]*(?=[a-z_]+:)")

_BACKTICKS = re.compile(r"[ \t]*(?:-[ \t]+)?(?:\w+:[ \t]+)?(`+)")
_PASSWORD = re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s/@'\"]+@")
HIDDEN_PASSWORD = ":******@"


def without_passwords(text: str) -> str:
    """``text`` with asterisks for the passwords of addresses (``https://user:password@host``)."""
    return _PASSWORD.sub(rf"\1{HIDDEN_PASSWORD}", text)


def clean(text: str) -> tuple[str, tuple[str, ...]]:
    """``text`` with the characters and lines of a YAML file, and what was repaired, in words.

    A config that was not copied badly comes back unchanged.
    """
    text = re.sub("[\u0085\u2028\u2029]", "\n", text)
    notes = []
    for note, repair in _REPAIRS:
        repaired = repair(text)
        if repaired != text:
            text = repaired
            notes.append(note)
    return text, tuple(notes)


def _unescape(text: str) -> str:
    for _ in range(2):  # pages that show their own source escape twice
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text


def _unquote(text: str) -> str:
    """Take the ``>`` of a quotation off, if every line has one."""
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    if not filled or not all(line.lstrip().startswith(">") for line in filled):
        return text
    return "\n".join(_QUOTED.sub("", line, count=1) for line in lines)


def _without_line_numbers(text: str) -> str:
    """Take off numbers that count the lines up, whether they stand before the lines or in lines of their own."""
    lines = text.split("\n")
    filled = [index for index, line in enumerate(lines) if line.strip()]
    alone = [index for index in filled if _ONLY_NUMBER.fullmatch(lines[index])]
    if len(alone) > 2 and _counts_up([lines[index] for index in alone]):
        kept = set(alone)
        return "\n".join("" if index in kept else line for index, line in enumerate(lines))
    matches = [_NUMBERED.fullmatch(lines[index]) for index in filled]
    if len(filled) > 2 and all(matches) and _counts_up([match[1] for match in matches if match]):
        for index, match in zip(filled, matches, strict=True):
            lines[index] = match[2] if match else ""
    return "\n".join(lines)


def _counts_up(numbers: list[str]) -> bool:
    """Whether each is larger than the one before, by one save where an empty line had a number too."""
    values = [int(number) for number in numbers]
    steps = [after - before for before, after in pairwise(values)]
    return all(step > 0 for step in steps) and steps.count(1) * 2 >= len(steps)


def _without_buttons(text: str) -> str:
    lines = ["" if _BUTTON.fullmatch(line) else line for line in text.split("\n")]
    return "\n".join(_BUTTON_BEFORE.sub("", line, count=1) for line in lines)


def _without_backticks(text: str) -> str:
    """Take off the backticks before and behind a line or a value."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if "`" in line:
            found = _BACKTICKS.match(line)
            bare = line[: found.start(1)] + line[found.end(1) :] if found else line
            lines[index] = bare.rstrip(" \t`") if bare.rstrip().endswith("`") else bare
    return "\n".join(lines)


def _expand_tabs(text: str) -> str:
    text = _LEADING.sub(lambda match: match[0].replace("\t", "  "), text)
    return text.replace("\t", " ")


def _unescape_markdown(text: str) -> str:
    return "\n".join(line if '"' in line else _ESCAPED.sub(r"\1", line) for line in text.split("\n"))


def without_table(text: str) -> str:
    """``text`` without the bars that stand at the ends of its lines where a page shows its source in a table."""
    lines = text.split("\n")
    filled = [line for line in lines if line.strip()]
    ending = sum(line.rstrip().endswith("|") for line in filled)
    if len(filled) < 3 or ending * 10 < len(filled) * 9:
        return text
    return "\n".join(_bare(line) for line in lines)


def _bare(line: str) -> str:
    line = line.rstrip(" \t|")
    return line[1:] if line.startswith("|") else line


_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("HTML entities", _unescape),
    ("invisible characters", lambda text: _INVISIBLE.sub("", text)),
    ("non-breaking and other wide spaces", lambda text: _SPACES.sub(" ", text)),
    ("quotation marks (>) before the lines", _unquote),
    ("the text of buttons", _without_buttons),
    ("line numbers", _without_line_numbers),
    ("Markdown's backslashes", _unescape_markdown),
    ("typographic quotes", lambda text: _SINGLE.sub(r"'\1'", _DOUBLE.sub(r'"\1"', text))),
    ("bullets in place of -", lambda text: _MINUS.sub("-", _BULLET.sub(r"\1- ", text))),
    ("stray backticks", _without_backticks),
    ("wide colons", lambda text: _COLON.sub(": ", text)),
    ("a missing space after -", lambda text: _NO_SPACE.sub(r"\1- ", text)),
    ("tabs", _expand_tabs),
)
