"""The leaderboard as one self-contained HTML page: what ``templates/leaderboard.html.j2`` shows of it.

The table is complete without the script, which adds sorting, filtering, tooltips and the details panel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merge_assets.evaluation.charts import Chart
from merge_assets.evaluation.history import versions_of
from merge_assets.evaluation.leaderboard import (
    Cell,
    Column,
    Leaderboard,
    LeaderboardEntry,
    Row,
    arrow,
    format_count,
)
from merge_assets.evaluation.members import TaskGroup, groups_of
from merge_assets.evaluation.page_texts import difference, evidence, label, number, tone
from merge_assets.evaluation.published import PublishedValue
from merge_assets.evaluation.varied import MOST, place_key, place_text, varied_places
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

_PLACES_AT = 3
"""Before which of these the columns of places stand."""

_Card = tuple[str, str, str, str, str]
"""Its head, the model, the value, a note, and how the value is coloured."""


@dataclass(frozen=True)
class FilesBeside:
    """What lies beside a page, which links to it, and charts of what is no property of the models.

    Attributes:
        charts: shown in the page.
        exports: names of files.
        comparisons: name of the page of each variant, parent and version of the parent.
    """

    charts: Sequence[Chart] = ()
    exports: Sequence[str] = ()
    comparisons: Mapping[tuple[str, str, str], str] = field(default_factory=dict)


def leaderboard_page(board: Leaderboard, title: str = "Leaderboard", files: FilesBeside | None = None) -> str:
    """The whole page; no external resource is loaded.

    Args:
        board: what to show.
        title: heading and title of the page.
        files: what lies beside it; a page without depends on nothing but models, scores and samples.
    """
    groups, varied = groups_of(board), varied_places(board.entries)
    ranges = {column: _range(board, column) for column in board.columns}
    listed = {entry.model: entry.fingerprint for entry in board.entries}
    return render(
        _PACKAGE,
        "leaderboard.html.j2",
        title=title,
        style=beside("merge_assets", "look.css")
        + beside(_PACKAGE, "leaderboard.css")
        + beside(_PACKAGE, "sections.css"),
        script=beside(_PACKAGE, "leaderboard.js"),
        board=board,
        summary=_summary(board),
        cards=_cards(board),
        heads=(*_HEADS[:_PLACES_AT], *(("varied", one.label, one.path) for one in varied[:MOST]), *_HEADS[_PLACES_AT:]),
        places=varied[:MOST],
        place_text=place_text,
        place_key=place_key,
        arrow=arrow,
        bar=lambda cell, column: _bar(cell.value, column, ranges[column]),
        best=lambda column: _best(column, ranges[column]),
        cell_tip=lambda cell, column: _cell_tip(cell, column, listed),
        column_tip=_column_tip,
        count=format_count,
        difference=difference,
        evidence=evidence,
        files=files or FilesBeside(),
        groups=groups,
        groups_of=lambda column: [group for group in groups if group.column == column],
        is_web_address=_is_web_address,
        label=label,
        number=number,
        parents_of=_parents_of,
        plain=_plain,
        published=_published(board.published),
        published_of=lambda model: [value for value in board.published if value.model == model],
        ranks=_ranks,
        short=short,
        tone=tone,
        versions=lambda entry: versions_of(entry, board.samples),
        told_of=_told,
        told_places=lambda entry: [
            f"{one.label}={place_text(entry.places[one.path])}" for one in varied if one.path in entry.places
        ],
    )


@dataclass(frozen=True)
class _PublishedTable:
    """Published values of one suite, or of benchmarks that no suite has: one row per model and source."""

    suite: str | None
    benchmarks: Sequence[str]
    rows: Sequence[tuple[str, str, Mapping[str, PublishedValue]]]


def _published(values: Sequence[PublishedValue]) -> list[_PublishedTable]:
    tables = []
    for suite in dict.fromkeys(value.suite for value in values):
        own = [value for value in values if value.suite == suite]
        rows: dict[tuple[str, str], dict[str, PublishedValue]] = {}
        for value in own:
            rows.setdefault((value.model, value.source), {})[value.benchmark] = value
        benchmarks = list(dict.fromkeys(value.benchmark for value in own))
        tables.append(_PublishedTable(suite, benchmarks, [(*key, found) for key, found in rows.items()]))
    return tables


def _told(group: TaskGroup, model: str) -> str:
    """Of how many members of a group a model is better and worse than its best parent."""
    words = [cell.best_parent.verdict.word for cell in group.cells.get(model, {}).values() if cell.best_parent]
    said = ((f"▲ {words.count('better')}", "better"), (f"▼ {words.count('worse')}", "worse"))
    return " ".join(text for text, word in said if word in words)


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
    best = number(first.value, column) + (f" ({first.part})" if first.part else "")
    cards: list[_Card] = [("Best score", scored[0].entry.model, best, label(column) + _if_stale(scored[0].entry), "")]
    compared = [(delta, row.cells[column], row.entry) for row in scored if (delta := row.cells[column].best_parent)]
    gains = [each for each in compared if each[0].verdict.word == "better"]
    if gains:
        delta, cell, entry = max(gains, key=lambda item: item[0].gain)
        text = f"{arrow(delta)} {difference(delta, cell, column)}"
        against = f"against {delta.parent}{_if_stale(entry)}"
        cards.append(("Largest gain over the best parent", entry.model, text, against, tone(delta)))
    elif compared:
        told = f"of no variant can be told that its {label(column)} is better than its best parent's"
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
    value = number(cell.value, column) + ("%" if column.is_fraction else "")
    value += f" of {cell.part} tasks" if cell.part else ""
    lines = [label(column), value + (f" ± {number(cell.stderr, column)}" if cell.stderr else "")]
    if cell.n is not None:
        lines.append(f"{_counted(cell.n, 'document')}, {cell.shots}-shot")
    for delta in cell.deltas:
        is_other = listed.get(delta.parent, delta.version) != delta.version
        parent = f"{delta.parent} of version {short(delta.version)}" if is_other else delta.parent
        theirs, word = number(delta.parent_value, column), delta.verdict.word
        lines.append(f"{arrow(delta)} {difference(delta, cell, column)} vs {parent} ({theirs}): {word}")
        lines.append(evidence(delta, cell, column).replace("\n", "; "))
        lines += [f"mind: {caveat}" for caveat in delta.caveats]
    lines += [parent.unknown for parent in cell.unknown]
    return "\n".join(lines)


def _parents_of(row: Row) -> list[str]:
    """Titles of the parents that some score of a model is compared with."""
    return list(dict.fromkeys(delta.parent for cell in row.cells.values() for delta in cell.deltas))


def _ranks(row: Row) -> str:
    """The interval of a rank, if it holds more than one."""
    return "" if row.ranks is None or row.ranks[0] == row.ranks[1] else f"{row.ranks[0]}–{row.ranks[1]}"


def _is_web_address(url: str | None) -> bool:
    """Only these become links: a recipe's author must not place a script into the page."""
    return url is not None and url.startswith(("https://", "http://"))


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


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _plain(count: int | None) -> str:
    return "" if count is None else str(count)
