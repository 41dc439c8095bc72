"""Which rows of which inputs make the rows of an embedding for another vocabulary, as compact text.

A row map is a list of runs. A run of ``count`` rows comes from consecutive rows of one input, from the mean of consecutive
rows of several, or is zero:

    32000:0@0 2:1@32000 1:0@5+1@5 14

is 32000 rows of input 0 from row 0 on, two rows of input 1 from row 32000 on, the mean of row 5 of both, and 14 zero rows.

    1000x6|2:0@1 1:0@0

is 1000 times such a list, each time from six rows further on in all inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Row = tuple[tuple[int, int], ...]
"""Where one row comes from: (model, row) of those that it is the mean of; empty is a row of zeros."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rows ``start`` to ``start + count`` of an output.

    Attributes:
        start: first row.
        count: number of rows.
        sources: (input, its first row), of which the mean is taken; none is zeros.
    """

    start: int
    count: int
    sources: Row


@dataclass(frozen=True)
class TokenRule:
    """What a recipe says of one token.

    Attributes:
        row: where its row comes from; ``None`` is the default for tokens that a model lacks.
        force: whether that holds for models that have the token, too.
    """

    row: Row | None
    force: bool


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of an output, and of its inputs.

    Attributes:
        tokens: text of every number; ``None`` where a number names none.
        rows: rows of the output's embeddings, at least one for every number.
        ids: numbers of every input's tokens, by input.
        base: the input whose row stands in for a missing one, ``None`` if there is no base model.
        donor: the input that gives the rows that name no token.
        rules: what the recipe says of single tokens, by their text.
        changed: whether the tokens are others than the donor's, so that rows behind them have no meaning.
    """

    tokens: Sequence[str | None]
    rows: int
    ids: Mapping[int, Mapping[str, int]]
    base: int | None
    donor: int
    rules: Mapping[str, TokenRule]
    changed: bool

    def missing(self, text: str, limits: Mapping[int, int]) -> Row:
        """The row of a token for models that lack it: the base's, the only one there is, or the mean of all.

        Args:
            text: the token.
            limits: rows of every input's embedding; a token beyond them counts as missing.
        """
        having = [(model, ids[text]) for model, ids in self.ids.items() if ids.get(text, limits[model]) < limits[model]]
        return tuple((model, row) for model, row in having if model == self.base) or tuple(having)

    def rows_for(self, model: int, limits: Mapping[int, int]) -> list[Row]:
        """Where every row of the output comes from for one input.

        Args:
            model: the input.
            limits: rows of every input's embedding.
        """
        own_ids, limit, ids = self.ids[model], limits[model], self.ids[self.donor]
        aligned = own_ids is ids or own_ids == ids
        donated = limits[self.donor]
        found: list[Row] = []
        for number in range(self.rows):
            text = self.tokens[number] if number < len(self.tokens) else None
            if text is None:
                if number >= len(self.tokens) and self.changed:
                    found.append(())
                elif aligned and number < limit:
                    found.append(((model, number),))
                else:
                    found.append(((self.donor, number),) if number < donated else ())
                continue
            own = own_ids.get(text, limit)
            rule = self.rules.get(text)
            if own < limit and not (rule is not None and rule.force):
                found.append(((model, own),))
            elif rule is not None and rule.row is not None:
                found.append(rule.row)
            else:
                found.append(self.missing(text, limits))
        return found


def as_text(rows: Iterable[Row], inputs: Sequence[int]) -> str:
    """A row map as text.

    Args:
        rows: where every row comes from, by model.
        inputs: the model of every input of the expression.
    """
    places = {model: place for place, model in enumerate(inputs)}
    parts: list[str] = []
    first: Row = ()
    count = 0
    for row in rows:
        if count and _follows(row, first, count):
            count += 1
            continue
        if count:
            parts.append(_run_text(count, first, places))
        first, count = row, 1
    if count:
        parts.append(_run_text(count, first, places))
    return " ".join(parts)


def _follows(row: Row, first: Row, count: int) -> bool:
    """Whether a row comes from the rows ``count`` behind those of another."""
    if len(row) == 1 == len(first):  # nearly all
        return row[0][0] == first[0][0] and row[0][1] == first[0][1] + count
    if len(row) != len(first):
        return False
    return all(one == other and at == begin + count for (one, at), (other, begin) in zip(row, first, strict=True))


def _run_text(count: int, row: Row, places: Mapping[int, int]) -> str:
    sources = "+".join(f"{places[model]}@{begin}" for model, begin in row)
    return f"{count}:{sources}" if sources else str(count)


def repeated(times: int, rows: int, text: str) -> str:
    """A row map that is gone through so many times, each time so many rows further on."""
    return f"{times}x{rows}|{text}"


def repeats(text: str) -> tuple[int, int, str]:
    """How many times a row map is gone through, how many rows further on each time, and the map of one time."""
    how, bar, one = text.partition("|")
    if not bar:
        return 1, 0, text
    times, _, rows = how.partition("x")
    return int(times), int(rows), one


@lru_cache(maxsize=16)
def runs(text: str) -> tuple[Run, ...]:
    """The runs of a row map that is gone through once, in order."""
    found, start = [], 0
    for part in text.split():
        length, _, listed = part.partition(":")
        sources = tuple((int(place), int(row)) for place, _, row in (s.partition("@") for s in listed.split("+") if s))
        found.append(Run(start, int(length), sources))
        start += int(length)
    return tuple(found)


def inputs_of(rows: Iterable[Row]) -> list[int]:
    """The models that a row map takes rows from, in order of their numbers."""
    return sorted({model for row in rows for model, _ in row})
