"""The files of a leaderboard: its tables as Parquet, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from merge_assets.evaluation.leaderboard import Column, Leaderboard, Row, arrow, format_count
from merge_assets.evaluation.leaderboard_tables import deltas_table, models_table
from merge_assets.evaluation.page import leaderboard_page
from merge_assets.evaluation.scores import format_delta, format_value
from merge_assets.markup import render

FILES = ("leaderboard.parquet", "deltas.parquet", "leaderboard.md", "leaderboard.html")
"""One row per model; one row per model, score and parent; for the UI; one self-contained page."""


LEGEND = (
    "▲ better and ▼ worse than the best parent on the same documents, at the 5 % level over all differences shown; ≈ the "
    "documents cannot tell; after a rank its 95 % interval; ± standard error of a score; ↓ lower is better. "
    "Fractions in percent."
)


def write_leaderboard(board: Leaderboard, directory: Path, title: str = "Leaderboard") -> list[Path]:
    """Writes :data:`FILES` into ``directory`` and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    models_table(board).to_parquet(directory / "leaderboard.parquet", index=False)
    deltas_table(board).to_parquet(directory / "deltas.parquet", index=False)
    (directory / "leaderboard.md").write_bytes(leaderboard_markdown(board).encode())
    (directory / "leaderboard.html").write_bytes(leaderboard_page(board, title).encode())
    return [directory / name for name in FILES]


def leaderboard_markdown(board: Leaderboard) -> str:
    """One table per suite; each score with its standard error and its difference to the best parent."""
    return render(
        "merge_assets.evaluation",
        "leaderboard.md.j2",
        board=board,
        legend=LEGEND,
        cell=cell_text,
        count=format_count,
        head=lambda column: head_text(column, [each for each in board.columns if each.suite == column.suite]),
        rank=rank_text,
        rows_of=lambda suite: rows_of(board, suite),
        stale=[row.entry for row in board.rows if row.entry.stale],
        notes=[(row.entry.model, note) for row in board.rows for note in row.notes],
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
