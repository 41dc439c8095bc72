"""The files of a leaderboard: tables, Markdown, a page with pages of what changed, and what other programs read."""

from __future__ import annotations

from pathlib import Path

from merge_assets.evaluation.charts import pareto_charts
from merge_assets.evaluation.comparison import ParentComparison, comparisons_of
from merge_assets.evaluation.comparison_page import comparison_names, comparison_pages
from merge_assets.evaluation.documents import Lines
from merge_assets.evaluation.exports import leaderboard_csv, leaderboard_latex
from merge_assets.evaluation.leaderboard import Leaderboard, format_count
from merge_assets.evaluation.leaderboard_tables import deltas_table, models_table
from merge_assets.evaluation.leaderboard_texts import LEGEND, cell_text, head_text, marks_of, rank_text, rows_of
from merge_assets.evaluation.page import FilesBeside, leaderboard_page
from merge_assets.evaluation.published import published_table
from merge_assets.markup import render

FILES = (
    *("leaderboard.parquet", "deltas.parquet", "published.parquet", "leaderboard.md", "leaderboard.html"),
    *("leaderboard.csv", "leaderboard.tex"),
)
"""One row per model; one row per model, score and parent; one row per published value; for the UI; the page; for others."""


def write_leaderboard(
    board: Leaderboard, directory: Path, title: str = "Leaderboard", lines: Lines | None = None
) -> list[Path]:
    """Writes :data:`FILES` into ``directory``, ``pareto-NAME.svg`` for each chart, and with samples ``comparisons/…html``.

    Args:
        board: what to write.
        directory: made if it is not there.
        title: of the page.
        lines: the samples in which answers are looked up; without them there are no pages of comparisons.

    Returns:
        The paths of what was written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    charts = pareto_charts(board)
    compared: list[ParentComparison] = comparisons_of(board) if lines is not None else []
    names = comparison_names(compared)
    models_table(board).to_parquet(directory / "leaderboard.parquet", index=False)
    deltas_table(board).to_parquet(directory / "deltas.parquet", index=False)
    published_table(board.published).to_parquet(directory / "published.parquet", index=False)
    texts = {f"pareto-{chart.name}.svg": chart.svg for chart in charts}
    files = FilesBeside(charts, [*FILES[-2:], *texts], names)
    texts |= {
        "leaderboard.md": leaderboard_markdown(board),
        "leaderboard.csv": leaderboard_csv(board),
        "leaderboard.tex": leaderboard_latex(board),
        "leaderboard.html": leaderboard_page(board, title, files),
    }
    if lines is not None:
        texts |= comparison_pages(compared, lines, title)
    for name, text in texts.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(text.encode())
    return [directory / name for name in dict.fromkeys([*FILES, *texts])]


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
        marks=marks_of,
        rank=rank_text,
        rows_of=lambda suite: rows_of(board, suite),
        stale=[row.entry for row in board.rows if row.entry.stale],
        published=board.published,
        notes=[(row.entry.model, note) for row in board.rows for note in row.notes],
    )
