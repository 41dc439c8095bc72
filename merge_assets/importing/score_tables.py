"""Tables of scores on a model card, as data: what its author published, beside which one's own measurements stand."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from merge_assets.importing.card_tables import card_tables

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
_MINE = ("this model", "ours", "value")
_AVERAGE = ("average", "avg", "mean")
_NAMES = {alias: name for names in (_TASKS, _OTHERS) for name, aliases in names.items() for alias in aliases}
_SHOTS = re.compile(r"[(\[]?\b\d+[ -]?shots?\b[)\]]?|\([^)]*\)", re.I)
_NUMBER = re.compile(r"[-+]?\d{1,4}(?:[.,]\d{1,8})?(?=\s*(?:%|±|\+/-|\(|$))")


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
        text: Markdown or HTML.
        own_names: what the model of the card is called; rows of it have no model.
    """
    found: list[ScoreTable] = []
    for table in card_tables(text):
        names = [benchmark(cell) for cell in table.head]
        if sum(name is not None for name in names) >= 2:
            found += _by_row(table.line, names, table.body, own_names)
        else:
            found += _by_column(table.line, table.head, table.body, own_names)
    return [in_percent(one) for one in found if sum(name != "average" for name in one.values) >= 2]


def _by_row(
    line: int, names: Sequence[str | None], body: Sequence[Sequence[str]], own: Collection[str]
) -> Iterator[ScoreTable]:
    """A model a row, a benchmark a column."""
    for row in body:
        table = ScoreTable(model_of(row[0], own) if names[0] is None and row else "", line)
        for name, cell in zip(names, row, strict=False):
            value = _value(cell)
            if name is not None and value is not None:
                table.values.setdefault(name, value)
        yield table


def _by_column(
    line: int, head: Sequence[str], body: Sequence[Sequence[str]], own: Collection[str]
) -> Iterator[ScoreTable]:
    """A benchmark a row, a model a column; of one column of values, the model is the card's."""
    columns = range(1, min(len(head), 12))
    filled = [
        at for at in columns if any(len(row) > at and benchmark(row[0]) and _value(row[at]) is not None for row in body)
    ]
    meant = [at for at in filled if not re.search(r"shot|version|std|±|n-?shot", head[at], re.I)]
    for at in meant:
        table = ScoreTable(model_of(head[at], own) if len(meant) > 1 else "", line)
        for row in body:
            name, value = benchmark(row[0]) if row else None, _value(row[at]) if len(row) > at else None
            if name is not None and value is not None:
                table.values.setdefault(name, value)
        yield table


def benchmark(cell: str) -> str | None:
    """The task or benchmark that a text names, ``average`` for a mean; ``None`` if it names none."""
    plain = _plain(_SHOTS.sub(" ", cell))
    return "average" if plain in _AVERAGE else _NAMES.get(plain)


def model_of(cell: str, own_names: Collection[str]) -> str:
    """The model that a text names; empty if it is the card's, which is called so."""
    plain, own = _plain(cell), [_plain(name) for name in own_names]
    mine = any(plain == name or plain.endswith(f" {name}") for name in own if name) or plain in _MINE
    return "" if mine else cell[:200]


def in_percent(table: ScoreTable) -> ScoreTable:
    """The same with percent in place of shares of 1."""
    if all(0 <= value <= 1 for value in table.values.values()):
        table.values = {name: round(value * 100, 6) for name, value in table.values.items()}
    return table


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _value(cell: str) -> float | None:
    found = _NUMBER.match(cell.strip(" *"))
    number = float(found[0].replace(",", ".")) if found else math.nan
    return number if math.isfinite(number) else None
