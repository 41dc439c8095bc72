"""Tables of scores on a model card, as data: what its author published, beside which one's own measurements stand."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from merge_assets.importing.cleaning import clean

V1 = "open-llm-leaderboard-v1"
"""The suite whose tasks the first Open LLM Leaderboard's benchmarks are."""

_TASKS = {
    "arc_challenge": ("ai2 reasoning challenge", "arc", "arc challenge", "arc c"),
    "hellaswag": ("hellaswag", "hella swag"),
    "mmlu": ("mmlu", "massive multitask language understanding"),
    "truthfulqa_mc2": ("truthfulqa", "truthful qa", "truthfulqa mc2", "tqa"),
    "winogrande": ("winogrande", "wino grande"),
    "gsm8k": ("gsm8k", "gsm 8k"),
}
_OTHERS = {
    "IFEval": ("ifeval",),
    "BBH": ("bbh", "big bench hard"),
    "MATH Lvl 5": ("math lvl 5", "math hard", "math level 5"),
    "GPQA": ("gpqa",),
    "MuSR": ("musr",),
    "MMLU-PRO": ("mmlu pro",),
    "MT-Bench": ("mt bench",),
    "EQ-Bench": ("eq bench", "eq bench v2"),
    "AGIEval": ("agieval",),
    "GPT4All": ("gpt4all",),
    "Bigbench": ("bigbench", "big bench"),
}
_AVERAGE = ("average", "avg", "mean")
_NAMES = {alias: name for names in (_TASKS, _OTHERS) for name, aliases in names.items() for alias in aliases}
_SHOTS = re.compile(r"[(\[]?\b\d+[ -]?shots?\b[)\]]?|\([^)]*\)", re.I)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_NUMBER = re.compile(r"[-+]?\d{1,4}(?:[.,]\d{1,8})?(?=\s*(?:%|±|\+/-|\(|$))")
_RULE = re.compile(r"[|:\s-]+")
_LONGEST = 2000
_MOST_TABLES = 40
"""Tables of a page that are read."""
_MOST = 60
"""Rows of a table that are read."""


@dataclass
class ScoreTable:
    """One row or column of a table: the scores of one model.

    Attributes:
        model: as the table calls it; empty for the model of the card.
        values: benchmark -> value, as published; where all lie between 0 and 1, times 100.
        line: 1-based line of the table's head.
    """

    model: str
    line: int
    values: dict[str, float] = field(default_factory=dict)

    @property
    def is_first_leaderboard(self) -> bool:
        """Whether the benchmarks are those of the first Open LLM Leaderboard, and nothing else."""
        return all(name in _TASKS or name == "average" for name in self.values) and len(self.values) > 1


def score_tables(text: str, own_names: Collection[str]) -> list[ScoreTable]:
    """Every row of scores of a text's tables that names at least two benchmarks.

    Args:
        text: Markdown.
        own_names: what the model of the card is called; rows of it have no model.
    """
    own = {_plain(name) for name in own_names}
    found: list[ScoreTable] = []
    for line, rows in islice(_tables(text), _MOST_TABLES):
        head, *body = rows
        names = [_benchmark(cell) for cell in head]
        if sum(name is not None for name in names) >= 2:
            found += _by_row(line, names, body, own)
        else:
            found += _by_column(line, head, body, own)
    return [_in_percent(one) for one in found if sum(name != "average" for name in one.values) >= 2]


def _by_row(
    line: int, names: Sequence[str | None], body: Sequence[Sequence[str]], own: set[str]
) -> Iterator[ScoreTable]:
    """A model a row, a benchmark a column."""
    for row in body:
        table = ScoreTable(_model(row[0], own) if names[0] is None and row else "", line)
        for name, cell in zip(names, row, strict=False):
            value = _value(cell)
            if name is not None and value is not None:
                table.values.setdefault(name, value)
        yield table


def _by_column(line: int, head: Sequence[str], body: Sequence[Sequence[str]], own: set[str]) -> Iterator[ScoreTable]:
    """A benchmark a row, a model a column; of one column of values, the model is the card's."""
    columns = range(1, min(len(head), 12))
    filled = [
        at
        for at in columns
        if any(len(row) > at and _benchmark(row[0]) and _value(row[at]) is not None for row in body)
    ]
    meant = [at for at in filled if not re.search(r"shot|version|std|±|n-?shot", head[at], re.I)]
    for at in meant:
        table = ScoreTable(_model(head[at], own) if len(meant) > 1 else "", line)
        for row in body:
            name, value = _benchmark(row[0]) if row else None, _value(row[at]) if len(row) > at else None
            if name is not None and value is not None:
                table.values.setdefault(name, value)
        yield table


def _tables(text: str) -> Iterator[tuple[int, list[list[str]]]]:
    """The tables of Markdown: the line of the head, and the cells of head and rows."""
    lines = [line[:_LONGEST] for line in text.splitlines()]
    for number in range(1, len(lines)):
        if "|" in lines[number - 1] and "-" in lines[number] and _RULE.fullmatch(lines[number].strip()):
            rows = [_cells(lines[number - 1])]
            for line in lines[number + 1 : number + 1 + _MOST]:
                if "|" not in line:
                    break
                rows.append(_cells(line))
            yield number, rows


def _cells(line: str) -> list[str]:
    return [clean(_LINK.sub(r"\1", cell))[0].strip(" *_`\t") for cell in line.strip().strip("|").split("|")]


def _benchmark(cell: str) -> str | None:
    plain = _plain(_SHOTS.sub(" ", cell))
    return "average" if plain in _AVERAGE else _NAMES.get(plain)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _model(cell: str, own: set[str]) -> str:
    plain = _plain(cell)
    mine = any(plain == name or plain.endswith(f" {name}") for name in own if name) or plain in (
        "this model",
        "ours",
        "value",
    )
    return "" if mine else cell[:200]


def _value(cell: str) -> float | None:
    found = _NUMBER.match(cell.strip(" *"))
    number = float(found[0].replace(",", ".")) if found else math.nan
    return number if math.isfinite(number) else None


def _in_percent(table: ScoreTable) -> ScoreTable:
    if all(0 <= value <= 1 for value in table.values.values()):
        table.values = {name: round(value * 100, 6) for name, value in table.values.items()}
    return table
