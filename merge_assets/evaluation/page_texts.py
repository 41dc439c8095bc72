"""How pages write values, differences and verdicts."""

from __future__ import annotations

from merge_assets.evaluation.leaderboard import Cell, Column, Delta
from merge_assets.evaluation.scores import format_delta, format_value


def label(column: Column) -> str:
    """A column in words."""
    return f"{column.suite} average" if column.task is None else f"{column.task} {column.metric}"


def number(value: float, column: Column) -> str:
    """A value of a column."""
    return format_value(value, column.is_fraction)


def difference(delta: Delta, cell: Cell, column: Column) -> str:
    """A difference, with as many decimals as its value."""
    return format_delta(delta.difference, column.is_fraction, cell.value)


def tone(delta: Delta) -> str:
    """The class that colours a difference."""
    return {"better": "up", "worse": "down", "cannot tell": "same"}[delta.verdict.word]


def evidence(delta: Delta, cell: Cell, column: Column) -> str:
    """What a verdict rests on, in lines, or why there is nothing that it could; the page says what the lines are."""
    verdict = delta.verdict
    if verdict.found is None or verdict.adjusted is None:
        return verdict.why

    def shown(value: float) -> str:
        return format_delta(value, column.is_fraction, cell.value)

    found = verdict.found
    least = [] if found.detectable is None else [f"least {shown(found.detectable).removeprefix('+')}"]
    return "\n".join(
        [f"{shown(found.low)} to {shown(found.high)}", f"p {found.p:.1g}, Holm {verdict.adjusted:.1g}", *least]
    )
