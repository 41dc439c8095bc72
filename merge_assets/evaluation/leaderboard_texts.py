"""What tables of a leaderboard say, as text: the Markdown, the terminal and LaTeX alike."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.evaluation.leaderboard import Column, Leaderboard, Row, arrow
from merge_assets.evaluation.otherwise import MARK
from merge_assets.evaluation.scores import format_delta, format_value

LEGEND = (
    "▲ better and ▼ worse than the best parent on the same documents, at the 5 % level over all differences shown; ≈ the "
    "documents cannot tell; after a rank its 95 % interval; ± standard error of a score; ↓ lower is better. "
    "Fractions in percent."
)


def rows_of(board: Leaderboard, suite: str) -> list[Row]:
    """The rows of the models that were evaluated on a suite."""
    return [row for row in board.rows if any(scores.suite == suite for scores in row.entry.scores)]


def rank_text(row: Row) -> str:
    """A rank with its interval, where that holds more than one: ``2 (1–4)``."""
    if row.rank is None:
        return ""
    return (
        f"{row.rank}"
        if row.ranks is None or row.ranks[0] == row.ranks[1]
        else "{} ({}–{})".format(row.rank, *row.ranks)
    )


def marks_of(row: Row, suite: str) -> str:
    """What stands behind a model's name: that it is out of date, or was asked otherwise than the suite says."""
    otherwise = any(scores.otherwise for scores in row.entry.scores if scores.suite == suite)
    return (" ⚠" if row.entry.stale else "") + (f" {MARK}" if otherwise else "")


def head_text(column: Column, columns: Sequence[Column]) -> str:
    """What a column of scores is called beside others: with its metric where a task has several."""
    several = sum(other.title == column.title for other in columns) > 1
    title = f"{column.title} {column.metric}" if several and column.metric else column.title
    return title if column.higher_is_better else f"{title} ↓"


def cell_text(row: Row, column: Column) -> str:
    """A score with its standard error, its difference to the best parent and its verdict; empty where there is none."""
    text = value_text(row, column)
    cell = row.cells.get(column)
    if cell is None:
        return text
    if cell.stderr:
        text += f" ±{format_value(cell.stderr, column.is_fraction)}"
    if cell.best_parent is not None:
        delta = cell.best_parent
        difference = format_delta(delta.difference, column.is_fraction, cell.value)
        text += f" {arrow(delta)}{difference} {delta.verdict.word}"
    return text


def value_text(row: Row, column: Column) -> str:
    """A score alone, and of how many tasks a headline is that lacks some; where it failed, that; empty where there is none."""
    cell = row.cells.get(column)
    if cell is None:
        return "failed" if row.failed(column) else ""
    return format_value(cell.value, column.is_fraction) + (f" ({cell.part})" if cell.part else "")
