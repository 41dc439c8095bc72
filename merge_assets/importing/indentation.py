"""Give the lines of a recipe the indentation back that copying took from them.

The schema says what fits where, so the structure follows from the lines alone. Every line goes to the innermost place that
takes it:

* a key goes to the innermost open mapping that has this key and not yet a value for it, and closes what is open inside;
* where the value that stands behind a key is of a type that only one of its places has, it goes there: ``source: union`` is
  the tokenizer's, as that of a token names a model;
* in mappings of free keys (``tokens``) any key fits that no mapping around them has, or that has a value which only fits
  here; in ``parameters`` those of a method;
* ``- `` starts an item of the innermost open list whose items can start so;
* what is neither is the value of the key above, or goes on with the text above.

Some keys fit in several places and go by other rules, because people mean it so:

* ``parameters`` of the whole method (such as ``t`` of slerp) belong to the recipe rather than to one of its inputs;
* ``base_model`` belongs to the recipe rather than to a slice;

save where an item before in the same list has the key too. A choice that makes a later line fit nowhere is taken back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from merge_assets.errors import RecipeError, did_you_mean
from merge_assets.importing.lines import Kind, Line, read_lines
from merge_assets.importing.places import LinePlace, OpenValue, State, item_places, key_places, text_places
from merge_assets.importing.shapes import recipe_shape, schema_keys
from merge_assets.importing.text_blocks import TextBlocks
from merge_assets.yamlfile import parse_documents

MAX_LINES = 2000
_MAX_STEPS = 100_000
_MAX_CHOICES = 8
_MOST_TRIED = 3

MethodParameters = Mapping[str, Mapping[str, bool]]
"""Method -> name of each parameter -> whether every input has its own value."""


@dataclass(frozen=True)
class Reading:
    """One way to put lines together.

    Attributes:
        text: the YAML.
    """

    text: str
    _reader: _Reader
    _places: tuple[LinePlace, ...]

    def choices(self, differs: Callable[[Reading], bool]) -> tuple[str, ...]:
        """The lines that might stand elsewhere too, one sentence each.

        Args:
            differs: whether another reading is a recipe too, and another one.
        """
        return tuple(self._reader.choices(self._places, differs))


def readings(text: str, first: int, parameters: MethodParameters, file: Path) -> Iterator[Reading]:
    """The YAML documents that ``text`` may have been before its indentation was lost, the likeliest first.

    Those in which every value is of a type that its place has come before all others, which only errors are taken from.

    Args:
        text: one document; its own indentation is not looked at.
        first: number of its first line, for errors.
        parameters: of the methods.
        file: named in errors.

    Raises:
        RecipeError: if there are none, at the line that fits nowhere.
    """
    names = {name for known in parameters.values() for name in known}
    lines = read_lines(text, first, schema_keys() | names)
    if len(lines) > MAX_LINES:
        raise RecipeError(f"has {len(lines)} lines, more than the {MAX_LINES} that are put in order", file=file)
    none = True
    for typed in (True, False):
        reader = _Reader(lines, parameters, names, typed=typed)
        for places in reader.search(0, reader.start):
            none = False
            yield Reading(reader.text(places), reader, tuple(places))
    if none:
        raise reader.error(file)


class _Reader:
    start: State = (OpenValue(recipe_shape(), "map", 0, label="the recipe"),)

    def __init__(self, lines: list[Line], parameters: MethodParameters, names: Collection[str], *, typed: bool) -> None:
        self._typed = typed
        self._all = lines
        self._lines = [line for line in lines if line.kind is not Kind.blank]
        self._blocks = TextBlocks(self._lines)
        self._names = names
        method = next((line.value.strip("\"'") for line in lines if line.key == "merge_method"), "")
        self._whole = {name for name, per_model in parameters.get(method, {}).items() if not per_model}
        self._values: dict[int, tuple[Any, ...]] = {}
        self._dead: set[tuple[int, State]] = set()
        self._steps = 0
        self._furthest = -1
        self._stuck: State = self.start

    def search(self, first: int, start: State) -> Iterator[list[LinePlace]]:
        """Every list of places for the lines from ``first`` on that fit together, the preferred ones first."""
        if first == len(self._lines):
            yield []
            return
        trail: list[LinePlace] = []
        found = 0
        # One entry per line of the trail and for the next: the places left to try, and what was found before it.
        levels = [(self._places(first, start), 0)]
        while levels and self._steps < _MAX_STEPS:
            index = first + len(trail)
            places, found_before = levels[-1]
            place = next(places, None)
            if place is None:
                levels.pop()
                if trail:
                    state = trail.pop().state
                    if found == found_before:
                        self._dead.add((index, state))
            elif index + 1 == len(self._lines):
                found += 1
                yield [*trail, place]
            elif (index + 1, place.state) not in self._dead:
                self._steps += 1
                trail.append(place)
                levels.append((self._places(index + 1, place.state), found))

    def choices(self, places: Sequence[LinePlace], differs: Callable[[Reading], bool]) -> Iterator[str]:
        """See :meth:`Reading.choices`."""
        told = 0
        state = self.start
        yield from self._texts_told(places)
        for index, chosen in enumerate(places):
            line = self._lines[index]
            if line.kind is Kind.key and told < _MAX_CHOICES:
                others = [place for place in self._places_of_key(index, state) if place.state != chosen.state]
                others = [place for place in others if not _is_alike(line, chosen.owner, place.owner)]
                possible = [p for p in others if self._is_possible([*places[:index], p], differs)]
                if possible:
                    told += 1
                    also = " or ".join(place.owner.label for place in possible)
                    yield f"line {line.number}: {line.key} is read as that of {chosen.owner.label}, not of {also}"
            state = chosen.state

    def _is_possible(self, places: list[LinePlace], differs: Callable[[Reading], bool]) -> bool:
        """Whether the first lines may stand at these places, with the others somewhere."""
        rest = islice(self.search(len(places), places[-1].state), _MOST_TRIED)
        return any(differs(Reading(self.text([*places, *more]), self, ())) for more in rest)

    def text(self, places: Sequence[LinePlace]) -> str:
        """The lines at their columns; a comment stands as the line below it."""
        written = iter(reversed(list(enumerate(places))))
        rows: list[str] = []
        column, in_text = 0, False
        for line in reversed(self._all):
            if line.kind is not Kind.blank:
                index, place = next(written)
                in_text = place.owner.kind == "text"
                column = column if place.column < 0 else place.column
                column += self._blocks.deeper(index) if in_text else 0
            more = " " * (column if in_text else column + 4)
            parts = [" " * column + line.parts[0], *(more + part for part in line.parts[1:])]
            rows += [part.rstrip() for part in reversed(parts)]
        return "\n".join(reversed(rows)) + "\n"

    def error(self, file: Path) -> RecipeError:
        """Why there is no reading: the first line that fits nowhere."""
        if self._steps >= _MAX_STEPS:
            return RecipeError("its lines can be put together in too many ways; indent them by hand", file=file)
        line = self._lines[self._furthest]
        maps = [node for node in reversed(self._stuck) if node.kind in ("map", "key")]
        taken = [node for node in maps if line.key in node.used]
        shown = line.parts[0] if len(line.parts[0]) <= 60 else f"{line.parts[0][:57]}..."
        if line.kind is Kind.key and line.key not in schema_keys():
            keys = list(dict.fromkeys(key for node in maps for key in node.shape.keys))
            keys += sorted(self._names) if any(node.label == "parameters" for node in maps) else []
            hint = did_you_mean(line.key, keys) or "; known here: " + ", ".join(keys)
            problem = f"unknown key {line.key[:60]!r}{hint}"
        elif taken and not line.dash:
            problem = f"{taken[0].label} has the key {line.key} already; is a line above missing?"
        else:
            problem = (
                f"{shown!r} fits nowhere behind what stands above it ({', '.join(node.label for node in maps[:3])})"
            )
        return RecipeError(
            f"{problem} (the indentation is wrong, so the keys alone were read)", file=f"{file}:{line.number}"
        )

    def _places(self, index: int, state: State) -> Iterator[LinePlace]:
        """Where a line may stand, the preferred place first."""
        if index > self._furthest:
            self._furthest, self._stuck = index, state
        line = self._lines[index]
        found: list[LinePlace] = []
        if line.kind is Kind.key:
            return iter(self._places_of_key(index, state))
        elif line.kind is Kind.item:
            found = list(item_places(line, state))
        elif line.kind is Kind.text:
            found = list(text_places(state, self._lines[index - 1] if index else None))
        innermost = state[-1]
        if innermost.kind == "text":
            found.append(LinePlace(innermost.column, state, innermost))
        elif line.kind is Kind.comment:
            found.append(LinePlace(-1, state, innermost))
        return iter(found)

    def _places_of_key(self, index: int, state: State) -> list[LinePlace]:
        """Where a key may stand, as text, too: first where its indentation is that of the text, not at all where it is less."""
        found, innermost = self._key_places(index, state), state[-1]
        if innermost.kind != "text":
            return found
        as_text = LinePlace(innermost.column, state, innermost)
        return {True: [as_text, *found], False: found, None: [*found, as_text]}[self._blocks.holds(index)]

    def _texts_told(self, places: Sequence[LinePlace]) -> Iterator[str]:
        """The texts whose own indentation is not known, one sentence each."""
        inside: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            if place.owner.kind == "text" and (opener := self._blocks.opener(index)) is not None:
                inside.setdefault(opener, []).append(index)
        for opener, indices in inside.items():
            lost = [index for index in indices if self._blocks.is_lost(index)]
            if lost and len(indices) > 1:  # a line alone has no indentation of its own
                line, key = self._lines[lost[0]], self._lines[opener].key
                yield f"line {line.number}: whether the text of {key} is indented here is not known, it stands as it was found"

    def _key_places(self, index: int, state: State) -> list[LinePlace]:
        """Where a key may stand, the preferred place first."""
        line = self._lines[index]
        found = [place for place in key_places(line, state) if not self._is_no_parameter(line, place)]
        if self._typed:
            found = [place for place in found if not _leaves_a_gap(place, state) and self._fits(index, place)]
        else:
            found = [place for place in found if not place.rare]
        if len(found) < 2:
            return found
        whole = line.key == "parameters" and self._is_whole(index)

        def rank(place: LinePlace) -> tuple[bool, int, int, int]:
            owner, depth = place.owner, len(place.state)
            as_before = -(line.key in owner.earlier)
            if line.key == "base_model":
                return place.rare, 0, as_before, depth
            if whole:
                return place.rare, int("model" in owner.shape.keys), as_before, depth
            return place.rare, 0, as_before, -depth

        return sorted(found, key=rank)

    def _fits(self, index: int, place: LinePlace) -> bool:
        """Whether the value behind a key is of a type that the schema has there, as far as the line alone tells."""
        if index not in self._values:
            self._values[index] = _value(self._lines[index], self._lines[index + 1 : index + 2])
        known = self._values[index]
        return not known or place.below.fits(known[0])

    def _is_no_parameter(self, line: Line, place: LinePlace) -> bool:
        """Whether a line would be a parameter that no method has."""
        return place.owner.label == "parameters" and bool(self._names) and line.key not in self._names

    def _is_whole(self, index: int) -> bool:
        """Whether every parameter below a line ``parameters:``, or in braces behind it, is the whole method's."""
        line = self._lines[index]
        names = {} if line.opens else dict.fromkeys(re.findall(r"\w+(?=[\"']?\s*:)", line.value))
        if line.opens:
            for below in self._lines[index + 1 :]:
                if below.kind is Kind.key and below.key not in ("value", "filter"):
                    if below.dash or below.key not in self._names:
                        break
                    names[below.key] = None
        return bool(names) and names.keys() - {"value", "filter"} <= self._whole


def _is_alike(line: Line, owner: OpenValue, other: OpenValue) -> bool:
    """Whether a key means the same in both: ``parameters`` of a slice are those of its only source."""
    return (
        line.key == "parameters" and not owner.earlier and "model" in owner.shape.keys and "sources" in other.shape.keys
    )


def _leaves_a_gap(place: LinePlace, state: State) -> bool:
    """Whether a key that needs a value is left without one."""
    *around, node = state
    return node.kind == "key" and place.state[: len(around)] != tuple(around) and not node.shape.fits(None)


def _value(line: Line, next_line: Sequence[Line]) -> tuple[Any, ...]:
    """The value behind a key; nothing if it goes on in the next line, or stands elsewhere."""
    if line.opens or line.opens_text or any(below.kind is Kind.text for below in next_line):
        return ()
    try:
        (document,) = parse_documents("\n    ".join((f"_: {line.value}", *line.parts[1:])), Path())
    except (RecipeError, ValueError):
        return ()
    return tuple(document.data.values())
