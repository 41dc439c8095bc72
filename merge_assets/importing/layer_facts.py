"""Tables of a page that name layers: which were removed, kept or repeated, and in which order they stand."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from merge_assets.importing.card_tables import CardTable, card_tables
from merge_assets.importing.score_tables import model_of

What = Literal["removed", "kept", "repeated", "of infinite SNR", "in order"]

_WORDS: tuple[tuple[What, re.Pattern[str]], ...] = (
    ("removed", re.compile(r"\b(?:remov|prun|dropp|delet|discard|cut)", re.I)),
    ("kept", re.compile(r"\b(?:kept|keep|remain|retain)", re.I)),
    ("repeated", re.compile(r"\b(?:repeat|duplicat|doubl|copied|twice)", re.I)),
)
_LAYER = re.compile(r"\b(?:layers?|blocks?)\b", re.I)
_COUNT = re.compile(r"#|\b(?:number|num|no|count|total|how many)\b", re.I)
_SNR = re.compile(r"\bSNR\b|signal[ -]to[ -]noise", re.I)
_INFINITE = re.compile(r"[+]?(?:inf(?:inity|inite)?|∞)", re.I)
_YES = re.compile(r"(?:yes|true|x|✓|✔|✅|☑|1)\b\s*|[✓✔✅☑]\ufe0f?", re.I)
_LIST = re.compile(
    r"\[?\s*\d{1,4}(?:\s*[-–—]\s*\d{1,4})?(?:\s*(?:,|;|and|&|\s)\s*\d{1,4}(?:\s*[-–—]\s*\d{1,4})?)*\s*\]?"
)
_PIECE = re.compile(r"(\d{1,4})(?:\s*[-–—]\s*(\d{1,4}))?")
_NUMBERED = re.compile(r"(?:layer\s*)?#?(\d{1,4})|[\w.]*\b(?:layers|h|blocks)\.(\d{1,4})(?:\.[\w.]*)?", re.I)
_FROM = re.compile(r"\b(?:source|original|from|old|base)\b", re.I)
_TO = re.compile(r"\b(?:new|output|target|result|position|place|merged)\b", re.I)
_DEEPEST = 500
"""Layers of a model; a larger number is none of a layer."""


@dataclass(frozen=True)
class LayerFact:
    """What a table says of layers.

    Attributes:
        what: of these layers.
        layers: their numbers, from 0, as they stand there.
        model: that it says it of; empty for the card's.
        line: 1-based line of the table's head.
    """

    what: What
    layers: tuple[int, ...]
    model: str
    line: int

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First and last layer of each run, in the table's order; other than in an order, layers stand by their numbers."""
        found: list[tuple[int, int]] = []
        for layer in self.layers if self.what == "in order" else sorted(self.layers):
            if found and layer == found[-1][1] + 1:
                found[-1] = found[-1][0], layer
            else:
                found.append((layer, layer))
        return found

    @property
    def at(self) -> str:
        """Where it stands, in words."""
        return f"the table at line {self.line}"

    def __str__(self) -> str:
        layers = ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in self.runs)
        of = f" of {self.model}" if self.model else ""
        return f"{self.at} has layers{of} {self.what}: {layers}"


def layer_facts(text: str, own_names: Collection[str]) -> list[LayerFact]:
    """What the tables of a page say of layers by number. A number alone that may count layers is not taken for one of a layer.

    Args:
        text: Markdown or HTML.
        own_names: what the model of the page is called.
    """
    return [fact for table in card_tables(text) for fact in _facts(table, own_names) if fact.layers]


def _facts(table: CardTable, own_names: Collection[str]) -> Iterator[LayerFact]:
    numbers = [_column(table, at) for at in range(len(table.head))]
    naming = [at for at, head in enumerate(table.head) if _LAYER.search(head) and not _COUNT.search(head)]
    pair = _order(table, naming, numbers)
    if pair is not None:
        yield LayerFact("in order", pair, "", table.line)
        return
    for at, head in enumerate(table.head):
        what = next((what for what, words in _WORDS if words.search(head)), None)
        if at in naming and what is not None:  # layers in a cell, a model or a step a row
            for row in table.body:
                layers = _listed(row[at]) if len(row) > at else ()
                yield LayerFact(what, layers, model_of(row[0], own_names) if at else "", table.line)
            return
    place = next((at for at in naming if numbers[at] is not None), None)
    if place is not None:
        yield from _by_row(table, place, numbers[place] or ())


def _by_row(table: CardTable, place: int, layers: Sequence[int]) -> Iterator[LayerFact]:
    """A layer a row; another cell says what became of it."""
    found: dict[What, list[int]] = {}
    for layer, row in zip(layers, table.body, strict=True):
        for head, cell in zip(table.head, row, strict=False):
            said = next((what for what, words in _WORDS if words.search(cell)), None)
            asked = next((what for what, words in _WORDS if words.search(head)), None)
            if said is not None:
                found.setdefault(said, []).append(layer)
            elif asked is not None and _YES.fullmatch(cell):
                found.setdefault(asked, []).append(layer)
            elif _SNR.search(head) and _INFINITE.fullmatch(cell):
                found.setdefault("of infinite SNR", []).append(layer)
    for what, numbers in found.items():
        yield LayerFact(what, tuple(dict.fromkeys(numbers)), "", table.line)


def _order(table: CardTable, naming: Sequence[int], numbers: Sequence[Sequence[int] | None]) -> tuple[int, ...] | None:
    """The layers in the order in which they stand, of a column for their new places beside one for the old ones."""
    new = next((at for at in naming if _TO.search(table.head[at]) and numbers[at] is not None), None)
    old = next((at for at in naming if _FROM.search(table.head[at]) and numbers[at] is not None), None)
    if new is None or old is None or new == old or list(numbers[new] or ()) != list(range(len(table.body))):
        return None
    return tuple(numbers[old] or ())


def _column(table: CardTable, at: int) -> list[int] | None:
    """The layers that a column names, one a row; ``None`` if it does not."""
    found = [_NUMBERED.fullmatch(row[at].strip()) if len(row) > at else None for row in table.body]
    numbers = [int(match[1] or match[2]) for match in found if match is not None]
    return numbers if numbers and len(numbers) == len(found) and max(numbers) < _DEEPEST else None


def _listed(cell: str) -> tuple[int, ...]:
    """The layers of a list; both ends of a range are in it. Nothing for a number alone, which may count layers."""
    if not _LIST.fullmatch(cell.strip()) or re.fullmatch(r"\d+", cell.strip()):
        return ()
    found: list[int] = []
    for first, last in _PIECE.findall(cell):
        begin, end = int(first), int(last or first)
        if begin > end or end >= _DEEPEST:
            return ()
        found += range(begin, end + 1)
    return tuple(dict.fromkeys(found))
