"""The leaderboard as one self-contained HTML page: what ``templates/leaderboard.html.j2`` shows of it.

The table is complete without the script, which adds sorting, filtering, tooltips and the details panel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from merge_assets.evaluation.leaderboard import (
    Cell,
    Column,
    Delta,
    Leaderboard,
    LeaderboardEntry,
    Row,
    arrow,
    format_count,
)
from merge_assets.evaluation.scores import format_delta, format_value
from merge_assets.freshness import short
from merge_assets.markup import beside, render

_PACKAGE = "merge_assets.evaluation"
_HEADS = (
    ("rank", "#", "Rank"),
    ("model", "Model", "Model"),
    ("method", "Method", "Method"),
    ("size", "Size", "Parameters"),
    ("layers", "Layers", "Layers"),
)

_Card = tuple[str, str, str, str, str]
"""Its head, the model, the value, a note, and how the value is coloured."""


def leaderboard_page(board: Leaderboard, title: str = "Leaderboard") -> str:
    """The whole page; no external resource is loaded.

    Args:
        board: what to show.
        title: heading and title of the page.
    """
    ranges = {column: _range(board, column) for column in board.columns}
    listed = {entry.model: entry.fingerprint for entry in board.entries}
    return render(
        _PACKAGE,
        "leaderboard.html.j2",
        title=title,
        style=beside(_PACKAGE, "leaderboard.css"),
        script=beside(_PACKAGE, "leaderboard.js"),
        board=board,
        summary=_summary(board),
        cards=_cards(board),
        heads=_HEADS,
        arrow=arrow,
        bar=lambda cell, column: _bar(cell.value, column, ranges[column]),
        best=lambda column: _best(column, ranges[column]),
        cell_tip=lambda cell, column: _cell_tip(cell, column, listed),
        column_tip=_column_tip,
        count=format_count,
        difference=_difference,
        evidence=_evidence,
        is_web_address=_is_web_address,
        label=_label,
        number=_number,
        parents_of=_parents_of,
        plain=_plain,
        ranks=_ranks,
        short=short,
        tone=_tone,
    )


def _summary(board: Leaderboard) -> list[str]:
    variants = sum(entry.kind == "variant" for entry in board.entries)
    tasks = sum(column.task is not None for column in board.columns)
    stale = sum(entry.stale is not None for entry in board.entries)
    return [
        _counted(variants, "variant"),
        _counted(len(board.entries) - variants, "base checkpoint"),
        _counted(tasks, "task"),
        f"suite {board.suites[0]}" if len(board.suites) == 1 else _counted(len(board.suites), "suite"),
        *([f"{stale} out of date"] if stale else []),
    ]


def _cards(board: Leaderboard) -> list[_Card]:
    """The first in rank, the largest gain that can be told from none, the first in most tasks; none without scores."""
    column = board.rank_column
    scored = [row for row in board.rows if column and column in row.cells]
    if column is None or not scored:
        return []
    first = scored[0].cells[column]
    best = _number(first.value, column) + (f" ({first.part})" if first.part else "")
    cards: list[_Card] = [("Best score", scored[0].entry.model, best, _label(column) + _if_stale(scored[0].entry), "")]
    compared = [(delta, row.cells[column], row.entry) for row in scored if (delta := row.cells[column].best_parent)]
    gains = [each for each in compared if each[0].verdict.word == "better"]
    if gains:
        delta, cell, entry = max(gains, key=lambda item: item[0].gain)
        text = f"{arrow(delta)} {_difference(delta, cell, column)}"
        against = f"against {delta.parent}{_if_stale(entry)}"
        cards.append(("Largest gain over the best parent", entry.model, text, against, _tone(delta)))
    elif compared:
        told = f"of no variant can be told that its {_label(column)} is better than its best parent's"
        cards.append(("Largest gain over the best parent", "none", "≈", told, "same"))
    tasks = [other for other in board.columns if other.task is not None]
    wins = Counter(
        row.entry.model
        for other in tasks
        for row in board.rows
        if other in row.cells and row.cells[other].value == _best(other, _range(board, other))
    )
    if wins:
        model, count = wins.most_common(1)[0]
        among = f"of {_counted(len(tasks), 'task')}, ties included"
        cards.append(("Best in most tasks", model, str(count), among, ""))
    return cards


def _column_tip(column: Column) -> str:
    better = "higher is better" if column.higher_is_better else "lower is better"
    metric = column.metric or "mean of the headline metrics"
    return f"{column.suite}: {column.task or 'average'}\n{metric}, {better}"


def _if_stale(entry: LeaderboardEntry) -> str:
    return "" if entry.stale is None else ", out of date"


def _cell_tip(cell: Cell, column: Column, listed: Mapping[str, str]) -> str:
    """What a cell says of itself.

    Args:
        cell: the score.
        column: where it stands.
        listed: the version of each model that the leaderboard has.
    """
    value = _number(cell.value, column) + ("%" if column.is_fraction else "")
    value += f" of {cell.part} tasks" if cell.part else ""
    lines = [_label(column), value + (f" ± {_number(cell.stderr, column)}" if cell.stderr else "")]
    if cell.n is not None:
        lines.append(f"{_counted(cell.n, 'document')}, {cell.shots}-shot")
    for delta in cell.deltas:
        is_other = listed.get(delta.parent, delta.version) != delta.version
        parent = f"{delta.parent} of version {short(delta.version)}" if is_other else delta.parent
        theirs, word = _number(delta.parent_value, column), delta.verdict.word
        lines.append(f"{arrow(delta)} {_difference(delta, cell, column)} vs {parent} ({theirs}): {word}")
        lines.append(_evidence(delta, cell, column).replace("\n", "; "))
        lines += [f"mind: {caveat}" for caveat in delta.caveats]
    lines += [parent.unknown for parent in cell.unknown]
    return "\n".join(lines)


def _parents_of(row: Row) -> list[str]:
    """Titles of the parents that some score of a model is compared with."""
    return list(dict.fromkeys(delta.parent for cell in row.cells.values() for delta in cell.deltas))


def _evidence(delta: Delta, cell: Cell, column: Column) -> str:
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


def _tone(delta: Delta) -> str:
    return {"better": "up", "worse": "down", "cannot tell": "same"}[delta.verdict.word]


def _ranks(row: Row) -> str:
    """The interval of a rank, if it holds more than one."""
    return "" if row.ranks is None or row.ranks[0] == row.ranks[1] else f"{row.ranks[0]}–{row.ranks[1]}"


def _is_web_address(url: str | None) -> bool:
    """Only these become links: a recipe's author must not place a script into the page."""
    return url is not None and url.startswith(("https://", "http://"))


def _label(column: Column) -> str:
    return f"{column.suite} average" if column.task is None else f"{column.task} {column.metric}"


def _number(value: float, column: Column) -> str:
    return format_value(value, column.is_fraction)


def _difference(delta: Delta, cell: Cell, column: Column) -> str:
    return format_delta(delta.difference, column.is_fraction, cell.value)


def _range(board: Leaderboard, column: Column) -> tuple[float, float]:
    cells = [row.cells[column] for row in board.rows if column in row.cells]
    values = [cell.value for cell in cells if not cell.part] or [cell.value for cell in cells] or [0.0]
    return min(values), max(values)


def _best(column: Column, limits: tuple[float, float]) -> float:
    low, high = limits
    return high if column.higher_is_better else low


def _bar(value: float, column: Column, limits: tuple[float, float]) -> str:
    """Percent of the column's best: value/best where higher is better, best/value where lower is."""
    low, high = limits
    part = (value / high if high else 0.0) if column.higher_is_better else (low / value if value else 1.0)
    return f"{100 * min(max(part, 0.0), 1.0) if math.isfinite(part) else 0.0:.1f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plain(number: int | None) -> str:
    return "" if number is None else str(number)
