"""The leaderboard for other programs: CSV for spreadsheets, LaTeX for papers."""

from __future__ import annotations

import re
from typing import Any

from merge_assets.evaluation.leaderboard import Leaderboard, format_count
from merge_assets.evaluation.leaderboard_tables import models_table
from merge_assets.evaluation.leaderboard_texts import head_text, marks_of, rank_text, rows_of, value_text
from merge_assets.evaluation.otherwise import MARK
from merge_assets.evaluation.scores import format_delta, format_value
from merge_assets.shown import visible

_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "…": r"\ldots{}",
    MARK: r"$\ddagger$",
}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))
_SIGNS = {"better": r"$\blacktriangle$", "worse": r"$\blacktriangledown$", "cannot tell": r"$\approx$"}


def leaderboard_csv(board: Leaderboard) -> str:
    """The table of :func:`~merge_assets.evaluation.leaderboard_tables.models_table`; several parents are parted by ``;``.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    table = models_table(board)
    for name in table.columns:
        if table[name].dtype in ("string", object):
            table[name] = [_cell(value) for value in table[name]]
    return table.to_csv(index=False, lineterminator="\n")


def leaderboard_latex(board: Leaderboard) -> str:
    """One ``tabular`` per suite, for ``booktabs`` and ``amssymb``; differences are to the best parent."""
    tables = []
    for suite in board.suites:
        columns = [column for column in board.columns if column.suite == suite]
        heads = [r"\#", "model", "method", "size", *(_escaped(head_text(column, columns)) for column in columns)]
        lines = [f"% {visible(suite)}", rf"\begin{{tabular}}{{rllr{'r' * len(columns)}}}", r"\toprule"]
        lines += [" & ".join(heads) + r" \\", r"\midrule"]
        for row in rows_of(board, suite):
            entry = row.entry
            model = entry.model + marks_of(row, suite).replace("⚠", "").rstrip()
            cells = [rank_text(row), model, entry.method or entry.kind, format_count(entry.parameters)]
            texts = [_escaped(cell) for cell in cells]
            for column in columns:
                text, cell = _escaped(value_text(row, column)), row.cells.get(column)
                if cell is not None and cell.stderr:
                    text += rf" {{\scriptsize$\pm${format_value(cell.stderr, column.is_fraction)}}}"
                if cell is not None and (delta := cell.best_parent) is not None:
                    difference = _escaped(format_delta(delta.difference, column.is_fraction, cell.value))
                    text += rf" {{\scriptsize{_SIGNS[delta.verdict.word]}{difference}}}"
                texts.append(text)
            lines.append(" & ".join(texts) + r" \\")
        tables.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    note = (
        "% booktabs, amssymb. A triangle: better or worse than the best parent at the 5 % level after Holm; "
        "$\\approx$: the documents cannot tell."
    )
    return "\n\n".join([note, *tables]) + "\n"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _LATEX[found[0]], " ".join(visible(text).split()))


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(str(each) for each in value)
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
